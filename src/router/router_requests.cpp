// Where requests begin and end: each choice is a sequence of its own, the answer is one.
#include <algorithm>

#include "chatloop/core/rules.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

// Its prompt is ids. What a RESUME brought is replayed; then it waits for a place, unless nothing
// is left to do.
void Router::begin(Sequence& sequence, TimeUs now) {
    std::optional<wire::Done> done;
    if (sequence.constraint != nullptr) sequence.matcher = sequence.constraint->fork();
    if (const std::optional<wire::Progress>& resume = sequence.request->resume) {
        Result<std::optional<wire::Done>> replayed =
            replay_text(sequence, resume->choices[sequence.choice]);
        if (!replayed) return fail(sequence, replayed.error());
        done = std::move(*replayed);
    }
    const bool asks_nothing = sequence.tokens_max == 0 && !sequence.wants_prompt_logprobs();
    const bool complete = sequence.tokens_max > 0 && sequence.committed() >= sequence.tokens_max;
    if (!done && sequence.tokens_max > 0) {
        const Result<bool> goes_on = constrain(sequence);
        if (!goes_on) return fail(sequence, goes_on.error());
        if (!*goes_on && sequence.committed() == 0)
            return fail(sequence, {ErrorCode::kInvalidRequest,
                                   "the constraint allows no answer but the empty one"});
        if (!*goes_on) {
            send_rest(sequence);
            done.emplace().finish_reason = "stop";
        }
    }
    if (!done && (asks_nothing || complete)) {
        send_rest(sequence);
        done.emplace().finish_reason = "length";
    }
    if (done) return finish(sequence, std::move(*done), now);
    enqueue(sequence, now);
}

// A resumed answer: its tokens are the client's already, what is held back of their text is
// rebuilt, and a stop rule that they meet ends it here as it would have ended there.
Result<std::optional<wire::Done>> Router::replay_text(Sequence& sequence,
                                                      const std::vector<uint32_t>& tokens) const {
    std::optional<wire::Done> done;
    for (const uint32_t id : tokens) {
        if (done)
            return Error{ErrorCode::kInvalidRequest, "token_ids go on behind a stop rule's match"};
        if ((done = stop_rule(sequence, id))) continue;
        Result<std::string> text = sequence.text->push(id);
        if (!text) return text.error();
        if (sequence.matcher != nullptr)
            if (const Status fits = sequence.matcher->commit(id); !fits) return fits.error();
        sequence.append(id);
        StopText::Step step = push_text(sequence, std::move(*text));
        sequence.text_offset += step.text.size();
        if (!step.match || !holds(Rule::kStopFirst)) continue;
        done.emplace().finish_reason = "stop";
        done->stop = *step.match;
    }
    return done;
}

// Choices 1 and up, if they have not begun: choice 0 has a token, or has ended.
void Router::begin_others(const std::shared_ptr<Request>& request, TimeUs now) {
    if (!request->others) return;
    const SequenceStart start = std::move(*request->others);
    request->others.reset();
    const SequenceId first = last_sequence_ + 1;
    for (uint32_t choice = 1; choice < request->choices; ++choice) {
        auto sequence = std::make_unique<Sequence>(start, request);
        sequence->id = ++last_sequence_;
        sequence->choice = choice;
        sequence->text = text_.stream(true);
        sequence->stop_text = StopText(start.parameters.stop);
        request->running.push_back(sequence->id);
        sequences_[sequence->id] = std::move(sequence);
    }
    const SequenceId last = last_sequence_;
    for (SequenceId id = first; id <= last; ++id) {
        const auto sequence = sequences_.find(id);
        if (sequence != sequences_.end()) begin(*sequence->second, now);  // unless one has failed
    }
    request->resume.reset();
}

// One choice has ended; with the last of them the request.
void Router::finish(Sequence& sequence, wire::Done done, TimeUs now) {
    const std::shared_ptr<Request> request = sequence.request;
    if (request->choices > 1)
        send(request->client, wire::ChoiceDone{request->id, sequence.choice, done.finish_reason,
                                               done.stop, sequence.committed()});
    if (sequence.choice == 0) request->done = std::move(done);
    sequence.trace.end(now);
    forget(sequence);
    begin_others(request, now);
    if (request->running.empty() && !request->ended) finish(*request, now);
}

void Router::finish(Request& request, TimeUs now) {
    forget(request);
    const auto ms = [](TimeUs us) { return static_cast<double>(us) / 1000.0; };
    const TimeUs admitted = request.admitted_at != 0 ? request.admitted_at : now;
    const TimeUs first = request.first_token_at != 0 ? request.first_token_at : now;
    wire::Done done = request.done;
    done.request_id = request.id;
    done.prompt_tokens = request.prompt_count;
    done.cached_tokens = request.cached_tokens;
    done.completion_tokens = request.committed;
    done.queue_ms = ms(admitted - request.arrived_at);
    done.prefill_ms = ms(first - admitted);
    done.decode_ms = ms(now - first);
    log_('i', "done: " + done.finish_reason + ", " + std::to_string(done.prompt_tokens) + " + " +
                  std::to_string(done.completion_tokens) + " tokens", span_of(request));
    note_ended(request, done.finish_reason, now);
    send(request.client, done);
}

// An error of one choice is the request's.
void Router::fail(Sequence& sequence, const Error& error) {
    const std::shared_ptr<Request> request = sequence.request;
    log_('w', std::string(error_name(error.code)) + ": " + error.message, span_of(*request));
    forget(*request);
    note_ended(*request, std::string(error_name(error.code)), ticked_at_);
    reply_error(request->client, request->id, error, request->committed);
}

uint32_t Router::committed(const Request& request) const {
    uint32_t tokens = request.committed;
    for (const SequenceId id : request.running) tokens += sequences_.at(id)->committed();
    return tokens;
}

void Router::forget(Request& request) {
    CL_ASSERT(!request.ended);
    request.ended = true;
    constraint_bytes_ -= request.constraint_bytes;
    request.others.reset();
    while (!request.running.empty()) forget(*sequences_.at(request.running.back()));
    const auto client = clients_.find(request.client);
    if (client == clients_.end()) return;
    client->second.requests.erase(request.id);
    if (client->second.requests.empty()) clients_.erase(client);
}

// The sequence is in no later frame; its slot and blocks return with the last frame in flight.
void Router::forget(Sequence& sequence) {
    const SequenceId id = sequence.id;
    Request& request = *sequence.request;
    std::erase(request.running, id);
    request.committed += sequence.committed();
    sequence.trace.end(ticked_at_);
    request.traced.push_back({sequence.choice, sequence.trace.phases()});
    if (sequence.choice == 0) {
        request.prompt_count = sequence.prompt_count;
        request.cached_tokens = sequence.cached_tokens;
        request.arrived_at = sequence.arrived_at;
        request.admitted_at = sequence.admitted_at;
        request.first_token_at = sequence.first_token_at;
    }
    if (sequence.placement != nullptr) by_admission_.erase(sequence.placement->admission);
    for (auto* lanes : {&lanes_, &parked_})
        if (const auto lane = lanes->find(sequence.generation); lane != lanes->end())
            std::erase(lane->second.sequences, id);
    queue_.erase(id);
    std::erase(set_aside_, id);
    settle_claim(id);
    if (sequence.admitted_at != 0) {  // it was charged for all that it might have generated
        const uint32_t asked = sequence.tokens_max;
        queue_.refund(sequence.client, sequence.parameters.priority,
                      asked - std::min(asked, sequence.committed()));
    }
    timeouts_.erase({sequence.timeout_at, id});
    std::erase(text_jobs_, id);
    sequences_.erase(id);
}

}  // namespace chatloop
