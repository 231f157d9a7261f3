// Egress: a RESULT returns credit and references, its tokens are committed in order, stop rules are
// applied before anything else is scheduled, and the client gets its piece.
#include <algorithm>

#include "chatloop/core/rules.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

// Rule 3: the router is the last receiver, and the same numbering holds for it.
void Router::on_result(Message bytes, TimeUs now) {
    const Result<wire::FrameHeader> header = wire::decode_header(bytes.bytes());
    if (!header || header->type != wire::kFrameResult) {
        ++counters_.result_malformed;
        return;
    }
    Route* route = cluster_.find_route(header->generation);
    const auto lane = lanes_.find(header->generation);
    const Incarnation self = config_.cluster.incarnation;
    const bool is_ours = (header->router == self && header->destination == self) ||
                         !holds(Rule::kResultRouter);
    if (!is_ours || route == nullptr || lane == lanes_.end() ||
        header->number <= lane->second.answered) {
        ++counters_.results_stale;
        return;
    }
    auto decoded = wire::decode_result(*header, bytes.bytes());
    const bool in_order =
        (header->number == lane->second.answered + 1 || !holds(Rule::kResultOrder)) &&
        !lane->second.in_flight.empty();
    if (!in_order || std::holds_alternative<wire::FrameError>(decoded)) {
        ++counters_.results_bad;
        return cluster_.fault(header->generation, "a RESULT was lost or damaged", now);
    }
    const wire::ResultFrame& result = std::get<wire::ResultFrame>(decoded);
    InFlight sent = std::move(lane->second.in_flight.front());
    lane->second.in_flight.pop_front();
    lane->second.answered = header->number;
    lane->second.answered_at = lane->second.result_at = now;
    CL_ASSERT(sent.number == header->number || !holds(Rule::kResultOrder));
    cluster_.credit(*route, sent.bytes);
    ++counters_.results;
    note_times(lane->second, sent, result.timings, now);
    note_frame(sent, result.timings, now);

    const bool matches = std::equal(
        sent.items.begin(), sent.items.end(), result.items.begin(), result.items.end(),
        [](const InFlightItem& asked, const wire::ResultItem& item) {
            return asked.admission == item.admission && asked.slot == item.slot;
        });
    if (!matches) {
        ++counters_.results_bad;
        return cluster_.fault(header->generation, "a RESULT does not match its frame", now);
    }
    for (size_t i = 0; i < sent.items.size(); ++i) apply(sent.items[i], result.items[i], now);
    sent.items.clear();  // what ended has its slot and blocks back before others are admitted
    preempt_idle(header->generation, now);
    schedule(now);
}

// What the frame has taken, for the next predictions and for STATUS.
void Router::note_times(Lane& lane, const InFlight& sent, std::span<const wire::HopTiming> timings,
                        TimeUs now) {
    lane.cost.learn(sent.shape, timings, now - sent.sent_at);
    ++lane.frames;
    if (lane.in_flight.empty()) lane.work_us += now - lane.busy_since;
    lane.busy_us.resize(std::max(lane.busy_us.size(), timings.size()));
    int64_t wire_us = now - sent.sent_at;
    for (size_t hop = 0; hop < timings.size(); ++hop) {
        lane.busy_us[hop] += timings[hop].busy_us;
        wire_us -= int64_t{timings[hop].busy_us} + timings[hop].queue_us;
    }
    lane.wire_us += static_cast<uint64_t>(std::max<int64_t>(0, wire_us));
    metrics_.wire_us += static_cast<uint64_t>(std::max<int64_t>(0, wire_us));
    const auto worked = static_cast<uint64_t>(now - std::max(lane.busy_since, lane.noted_at));
    lane.noted_at = now;
    for (size_t hop = 0; hop < std::min(timings.size(), lane.times.size()); ++hop) {
        if (lane.times[hop] == nullptr) continue;
        const wire::HopTiming& timing = timings[hop];
        WorkerTimes& times = *lane.times[hop];
        times.step_s.add(timing.busy_us / 1e6);
        times.response_s.add((0.0 + timing.busy_us + timing.queue_us) / 1e6);
        times.busy_us += timing.busy_us;
        times.queue_us += timing.queue_us;
        times.work_us += worked;
        times.rows += sent.shape.rows;
        ++times.frames;
    }
}

void Router::apply(const InFlightItem& sent, const wire::ResultItem& item, TimeUs now) {
    const auto admitted = by_admission_.find(sent.admission);
    if (admitted == by_admission_.end()) {  // cancelled or failed while in flight
        ++counters_.results_uncommitted;
        return;
    }
    Sequence& sequence = *sequences_.at(admitted->second);
    switch (item.error) {
        case wire::ItemError::kNone: break;
        case wire::ItemError::kRefused:
            if (!holds(Rule::kRefused)) break;
            return on_refused(sequence, now);
        case wire::ItemError::kNonFinite:
            return fail(sequence,
                        {ErrorCode::kNonFinite, "the model produced a logit that is not finite"});
        case wire::ItemError::kMalformed:
            return fail(sequence, {ErrorCode::kInternal, "the sampler refused its parameters"});
    }
    if (!answers(sequence, sent, item)) {
        ++counters_.results_bad;
        return fail(sequence, {ErrorCode::kInternal, "the sampler answered what was not asked"});
    }
    sequence.confirmed = sent.position + sent.rows;
    if (sequence.suspicion && sequence.confirmed >= sequence.suspicion->row_end)
        sequence.suspicion.reset();
    if (config_.prefix_cache)
        publish(sequence, sent.position + sent.rows);
    wire::PromptPiece prompt{sequence.request_id, sequence.prompt_entries_sent, {}};
    const wire::Output* sampled = nullptr;
    for (const wire::Output& output : item.outputs) {
        if (output.kind != 2) {
            sampled = &output;
            continue;
        }
        wire::TokenEntry entry{output.token, output.logprob, output.top};
        entry.top.resize(std::min<size_t>(entry.top.size(), *sequence.parameters.prompt_logprobs));
        prompt.entries.emplace_back(std::move(entry));
    }
    sequence.prompt_entries_sent += static_cast<uint32_t>(prompt.entries.size());
    if (!prompt.entries.empty()) send(sequence.client, prompt);
    if (sampled != nullptr) {
        const std::shared_ptr<Request> request = sequence.request;
        commit(sequence, *sampled, now);
        return begin_others(request, now);
    }
    const bool prompt_only = sequence.tokens_max == 0;
    if (prompt_only && sent.position + sent.rows >= sequence.prompt_count) {
        wire::Done done;
        done.finish_reason = "length";
        finish(sequence, std::move(done), now);
    }
}

// Full blocks of its confirmed rows can be found from now on.
void Router::publish(Sequence& sequence, uint32_t rows_confirmed) {
    Placement& placement = *sequence.placement;
    const size_t rows = holds(Rule::kPrefixResult)
                            ? rows_confirmed
                            : std::min(sequence.ids.size(), placement.blocks.size() * kBlockRows);
    placement.kv->publish(placement, sequence.ids, static_cast<uint32_t>(rows));
}

// Whether the row at `position` carries the log-probability of the prompt token behind it; once, if
// the prompt is computed again.
bool Router::wants_target(const Sequence& sequence, uint32_t position) const {
    return sequence.wants_prompt_logprobs() && position + 1 < sequence.prompt_count &&
           position + 1 >= sequence.prompt_entries_sent;
}

// Row by row what was asked: the right kind, the right target, an id of the vocabulary, and a
// sample only for the row behind which nothing is known yet.
bool Router::answers(const Sequence& sequence, const InFlightItem& sent,
                     const wire::ResultItem& item) const {
    if (item.outputs.size() != sent.outputs.size()) return false;
    for (size_t i = 0; i < item.outputs.size(); ++i) {
        const wire::Output& output = item.outputs[i];
        const uint32_t position = sent.position + sent.outputs[i];
        if (output.row != sent.outputs[i] || output.token >= config_.cluster.vocab) return false;
        if (wants_target(sequence, position)) {
            if (output.kind != 2 || output.token != sequence.ids[position + 1]) return false;
        } else if (output.kind != 1 || position + 1 != sequence.ids.size()) {
            return false;
        }
    }
    return true;
}

// A stop id ends the answer and is not part of it.
std::optional<wire::Done> Router::stop_rule(const Sequence& sequence, uint32_t token) const {
    const auto contains = [token](const std::vector<uint32_t>& ids) {
        return std::find(ids.begin(), ids.end(), token) != ids.end();
    };
    const bool model_stop = !sequence.parameters.ignore_eos && contains(config_.stop_ids);
    if (!model_stop && !contains(sequence.parameters.stop_token_ids)) return std::nullopt;
    wire::Done done;
    done.finish_reason = "stop";
    done.stop = token;
    return done;
}

void Router::commit(Sequence& sequence, const wire::Output& output, TimeUs now) {
    CL_ASSERT(sequence.rows_sent == sequence.ids.size());  // nothing is sent beyond the last commit
    ++counters_.tokens_committed;
    sequence.recovers = sequence.was_refused = false;
    note_token(sequence, now);
    if (std::optional<wire::Done> done = stop_rule(sequence, output.token)) {
        send_rest(sequence);
        return finish(sequence, std::move(*done), now);
    }
    Result<std::string> text = sequence.text->push(output.token);
    if (!text) return fail(sequence, text.error());
    sequence.append(output.token);
    ++metrics_.tokens_generated;
    StopText::Step step = push_text(sequence, std::move(*text));
    send_piece(sequence, output, std::move(step.text));
    wire::Done done;
    if (step.match) {
        done.finish_reason = "stop";
        done.stop = *step.match;
        return finish(sequence, std::move(done), now);
    }
    const Result<bool> goes_on = advance(sequence, output.token);
    if (!goes_on) return fail(sequence, goes_on.error());
    if (*goes_on && sequence.committed() < sequence.tokens_max) return;
    send_rest(sequence);
    done.finish_reason = *goes_on ? "length" : "stop";
    finish(sequence, std::move(done), now);
}

// Before min_tokens no stop string is looked for.
StopText::Step Router::push_text(Sequence& sequence, std::string text) const {
    if (sequence.committed() < sequence.parameters.min_tokens) return {std::move(text), {}};
    return sequence.stop_text.push(text);
}

void Router::note_token(Sequence& sequence, TimeUs now) {
    const auto ms = [](TimeUs us) { return static_cast<double>(us) / 1000.0; };
    if (sequence.first_token_at == 0) {
        sequence.first_token_at = now;
        if (sequence.choice == 0) histograms_.first_token_ms.add(ms(now - sequence.arrived_at));
    } else {
        histograms_.token_ms.add(ms(now - sequence.last_token_at));
    }
    sequence.last_token_at = now;
    if (sequence.trace.running() != PhaseKind::kDecode)
        sequence.trace.begin(PhaseKind::kDecode, now, sequence.generation);
}

void Router::send_piece(Sequence& sequence, const wire::Output& output, std::string text) {
    wire::Piece piece;
    piece.request_id = sequence.request_id;
    piece.choice = sequence.choice;
    piece.index = sequence.committed() - 1;
    piece.token_ids = {output.token};
    piece.text_offset = sequence.text_offset;
    sequence.text_offset += text.size();
    piece.text = std::move(text);
    if (sequence.parameters.logprobs) {
        wire::TokenEntry entry{output.token, output.logprob, output.top};
        entry.top.resize(std::min<size_t>(entry.top.size(), *sequence.parameters.logprobs));
        piece.logprobs = {std::move(entry)};
    }
    send(sequence.client, piece);
}

// Text that was held back for a character or a stop string that did not come.
void Router::send_rest(Sequence& sequence) {
    StopText::Step step = sequence.stop_text.push(sequence.text->finish());
    std::string rest = step.text + (step.match ? std::string() : sequence.stop_text.finish());
    if (rest.empty()) return;
    wire::Piece piece;
    piece.request_id = sequence.request_id;
    piece.choice = sequence.choice;
    piece.index = sequence.committed();
    piece.text_offset = sequence.text_offset;
    sequence.text_offset += rest.size();
    piece.text = std::move(rest);
    if (sequence.parameters.logprobs) piece.logprobs.emplace();
    send(sequence.client, piece);
}

}  // namespace chatloop
