// A completion's way out: what the router says becomes one body, or events.
#include <algorithm>
#include <limits>
#include <utility>

#include "chatloop/core/limits.hpp"
#include "chatloop/http/api.hpp"

namespace chatloop::http {

void Api::on_accepted(const wire::Accepted& accepted, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(accepted.request_id, &part);
    if (job == nullptr) return;
    job->resume.reset();
    if (part->accepted) return;  // it was taken up again
    part->accepted = true;
    part->seed = accepted.seed;
    if (accepted.prompt_text)
        for (Choice& choice : part->choices) choice.text = *accepted.prompt_text;
    if (job->ask.parameters.prompt_logprobs) part->prompt_ids = accepted.prompt_ids;
    if (!job->ask.stream) {
        if (accepted.prompt_text)
            hold(*job, part->choices.size() * text_bytes(*accepted.prompt_text), now);
        return;
    }
    if (!job->streams && !start_stream(*job, accepted, now)) return;
    if (job->ask.surface == Surface::kChat)
        for (const Choice& choice : part->choices)
            send(*job, choice.index, role_chunk(job->head, choice.index), now);
}

// Log-probabilities of the prompt stand before those of the answer, in every choice.
void Api::on_prompt_piece(const wire::PromptPiece& piece, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(piece.request_id, &part);
    if (job == nullptr) return;
    size_t i = part->prompt_entries - std::min<size_t>(piece.index, part->prompt_entries);
    part->prompt_entries = std::max(part->prompt_entries, piece.index + piece.entries.size());
    while (i < piece.entries.size()) {
        LogprobsText batch = part->choices.front().logprobs.following();
        // Events end at fixed places, however the pieces came: their ids say what is in them.
        const size_t rest = kHttpLogprobsPerEvent - (piece.index + i) % kHttpLogprobsPerEvent;
        const size_t end = std::min(piece.entries.size(), i + rest);
        size_t bytes = 0;
        for (; i < end; ++i) {
            wire::TokenEntry entry{part->prompt_ids.at(piece.index + i),
                                   std::numeric_limits<float>::quiet_NaN(), {}};
            if (piece.entries[i]) entry = *piece.entries[i];
            bytes += batch.add(job->ask.surface, entry, token_texts_);
        }
        if (!job->ask.stream && !hold(*job, bytes * part->choices.size(), now)) return;
        const size_t entries = piece.index + i;
        const bool is_due = entries % kHttpLogprobsPerEvent == 0 ||
                            (entries == part->prompt_ids.size() && piece.index > 0);
        for (Choice& choice : part->choices) {
            choice.logprobs.append(batch);
            if (is_due) on_text(*job, choice, now);  // the first token has none: it waits
        }
    }
}

void Api::on_piece(const wire::Piece& piece, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(piece.request_id, &part);
    if (job == nullptr) return;
    Choice& choice = part->choices.at(piece.choice);
    Heard& heard = part->heard.at(piece.choice);
    const auto tokens = piece.index + static_cast<uint32_t>(piece.token_ids.size());
    const uint64_t text_end = piece.text_offset + piece.text.size();
    if (tokens <= heard.tokens && text_end <= heard.text_bytes) return;  // said once more
    heard.tokens = tokens;
    heard.text_bytes = text_end;
    if (job->stream != nullptr) job->stream->log.add_tokens(piece.choice, piece.token_ids.size());
    size_t bytes = text_bytes(piece.text);
    if (piece.logprobs)
        for (const wire::TokenEntry& entry : *piece.logprobs)
            bytes += choice.logprobs.add(job->ask.surface, entry, token_texts_);
    if (!job->ask.stream && !hold(*job, bytes, now)) return;
    if (part->parsers.empty()) {
        choice.text += piece.text;
    } else {
        on_tool_events(*job, *part, choice, part->parsers[piece.choice].push(piece.text), now);
    }
    on_text(*job, choice, now);
}

// Sends what has come of a stream's choice, if anything has: often it is a part of a character.
void Api::on_text(Job& job, Choice& choice, TimeUs now) {
    if (!job.ask.stream || (choice.text.empty() && choice.logprobs.count() == 0)) return;
    const bool wants = job.ask.parameters.logprobs.has_value();
    send_text(job, choice.index, text_chunk(job.head, choice, wants), now);
    choice.text.clear();
    choice.logprobs.clear();
}

void Api::on_tool_events(Job& job, Part& part, Choice& choice,
                         const std::vector<ToolEvent>& events, TimeUs now) {
    const uint32_t own = static_cast<uint32_t>(&choice - part.choices.data());
    const auto tell = [&](uint32_t index, const ToolCall& call) {
        if (!job.ask.stream) return;
        on_text(job, choice, now);  // what came before it
        send(job, choice.index, tool_chunk(job.head, choice.index, index, call), now);
    };
    for (const ToolEvent& event : events) {
        if (const auto* content = std::get_if<ToolContent>(&event)) {
            choice.text += content->text;
        } else if (const auto* begin = std::get_if<ToolCallBegin>(&event)) {
            choice.tool_calls.push_back(
                {tool_call_id(part.seed, own, begin->index), begin->name, ""});
            tell(begin->index, choice.tool_calls.back());
        } else {
            const auto& more = std::get<ToolCallArguments>(event);
            if (!job.ask.stream) choice.tool_calls.at(more.index).arguments += more.text;
            tell(more.index, {"", "", more.text});
        }
    }
}

void Api::on_end(Job& job, Part& part, uint32_t index, const std::string& reason, wire::Stop stop,
                 TimeUs now) {
    if (std::exchange(part.heard.at(index).ended, true)) return;  // said once more
    Choice& choice = part.choices.at(index);
    if (!part.parsers.empty())
        on_tool_events(job, part, choice, part.parsers.at(index).finish(), now);
    const bool calls = !choice.tool_calls.empty() && reason == "stop";
    choice.finish_reason = calls ? "tool_calls" : reason;
    choice.stop = std::move(stop);
    if (!job.ask.stream || job.ask.surface == Surface::kExecute) return;
    const std::string finish = std::exchange(choice.finish_reason, {});
    on_text(job, choice, now);  // an echo without an answer, or what the tools' parser held back
    choice.finish_reason = finish;
    send(job, choice.index, end_chunk(job.head, choice), now);
}

void Api::on_done(const wire::Done& done, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(done.request_id, &part);
    if (job == nullptr) return;
    if (job->ask.parameters.n == 1) on_end(*job, *part, 0, done.finish_reason, done.stop, now);
    part->ended = true;
    part->usage = {done.prompt_tokens, done.cached_tokens, done.completion_tokens};
    by_request_.erase(part->request_id);
    if (std::all_of(job->parts.begin(), job->parts.end(), [](const Part& p) { return p.ended; }))
        complete(*job, now);
}

void Api::on_failure(const wire::Failure& failure, TimeUs now) {
    Part* part = nullptr;
    Job* job = failure.request_id ? find(*failure.request_id, &part) : nullptr;
    if (job == nullptr) return;
    part->ended = true;
    fail(*job, problem_of(failure), now);
}

// ---- answers ----

// Whether an answer that is kept until it is whole may grow by so much.
bool Api::hold(Job& job, size_t bytes, TimeUs now) {
    job.held_bytes += bytes;
    held_bytes_ += bytes;
    if (job.held_bytes > kHttpAnswerBytesMax) {
        fail(job, {400, "the answer is too large for one body: stream it", "stream",
                   "answer_too_large"}, now);
        return false;
    }
    if (held_bytes_ <= kHttpAnswersBytesMax) return true;
    fail(job, {503, "too many large answers are under way: stream it, or ask again", "stream",
               "server_busy", kAgainMs}, now);
    return false;
}

void Api::send(Job& job, uint32_t choice, const Json& data, TimeUs now) {
    send_text(job, choice, to_text(data), now);
}

void Api::send_text(Job& job, uint32_t choice, std::string_view json, TimeUs now) {
    send_event(job, choice, event(json), now);
}

void Api::complete(Job& job, TimeUs now) {
    Usage usage;
    for (const Part& part : job.parts) {
        usage.prompt_tokens += part.usage.prompt_tokens;
        usage.cached_tokens += part.usage.cached_tokens;
        usage.completion_tokens += part.usage.completion_tokens;
    }
    const Part& first = job.parts.front();
    if (job.ask.stream) {
        if (job.ask.surface == Surface::kExecute) {
            send(job, 0, execute_end(job.head, first.choices[0], usage, first.seed), now);
        } else {
            if (job.ask.include_usage) send(job, 0, usage_chunk(job.head, usage), now);
            send_event(job, 0, kStreamEnd, now);
        }
        end_stream(job, now);
        return forget(job);
    }
    std::vector<Choice> choices;
    for (Part& part : job.parts)
        std::move(part.choices.begin(), part.choices.end(), std::back_inserter(choices));
    const bool wants = job.ask.parameters.logprobs.has_value();
    responder_.respond(job.exchange,
                       {200, "application/json",
                        whole_answer(job.head, choices, usage, wants, first.seed),
                        {{"x-request-id", job.request_header}}});
    forget(job);
}

// In mid-stream the status is long out: an event says it, and no [DONE] follows.
void Api::fail(Job& job, const Problem& problem, TimeUs now) {
    cancel(job, now);
    if (job.streams) {
        send_text(job, 0, problem_json(problem), now);
        end_stream(job, now);
    } else {
        Response response = problem_response(problem);
        response.headers.emplace_back("x-request-id", job.request_header);
        responder_.respond(job.exchange, std::move(response));
    }
    forget(job);
}

}  // namespace chatloop::http
