// A completion's way out: what the router says becomes one body, or events.
#include <algorithm>
#include <limits>

#include "chatloop/core/limits.hpp"
#include "chatloop/http/api.hpp"

namespace chatloop::http {

namespace {

size_t entry_bytes(const wire::TokenEntry& entry) {
    return sizeof entry + entry.top.size() * sizeof(wire::TopLogprob);
}

}  // namespace

void Api::on_accepted(const wire::Accepted& accepted, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(accepted.request_id, &part);
    if (job == nullptr) return;
    part->seed = accepted.seed;
    if (accepted.prompt_text)
        for (Choice& choice : part->choices) choice.text = *accepted.prompt_text;
    if (job->ask.parameters.prompt_logprobs) part->prompt_ids = accepted.prompt_ids;
    if (!job->ask.stream) {
        hold(*job, accepted.prompt_text ? accepted.prompt_text->size() : 0, now);
        return;
    }
    if (!job->streams) start_stream(*job, now);
    if (job->ask.surface == Surface::kChat)
        for (const Choice& choice : part->choices)
            send(*job, choice.index, role_chunk(job->head, choice.index), now);
}

// Log-probabilities of the prompt stand before those of the answer, in every choice.
void Api::on_prompt_piece(const wire::PromptPiece& piece, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(piece.request_id, &part);
    if (job == nullptr) return;
    size_t bytes = 0;
    for (size_t i = 0; i < piece.entries.size(); ++i) {
        wire::TokenEntry entry{part->prompt_ids.at(piece.index + i),
                               std::numeric_limits<float>::quiet_NaN(), {}};
        if (piece.entries[i]) entry = *piece.entries[i];
        bytes += entry_bytes(entry) * part->choices.size();
        for (Choice& choice : part->choices) choice.logprobs.push_back(entry);
    }
    hold(*job, bytes, now);  // until the answer begins, also in a stream
}

void Api::on_piece(const wire::Piece& piece, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(piece.request_id, &part);
    if (job == nullptr) return;
    Choice& choice = part->choices.at(piece.choice);
    if (job->stream != nullptr) job->stream->log.add_tokens(piece.choice, piece.token_ids.size());
    size_t bytes = piece.text.size();
    if (piece.logprobs) {
        for (const wire::TokenEntry& entry : *piece.logprobs) {
            bytes += entry_bytes(entry);
            choice.logprobs.push_back(entry);
        }
    }
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
    if (!job.ask.stream || (choice.text.empty() && choice.logprobs.empty())) return;
    const bool wants = job.ask.parameters.logprobs.has_value();
    send(job, choice.index, text_chunk(job.head, choice, wants, token_texts_), now);
    for (const wire::TokenEntry& entry : choice.logprobs)
        choice.text_offset += characters(token_texts_.of(entry.token));
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
    if (job.held_bytes <= kHttpAnswerBytesMax) return true;
    fail(job,
         {400, "the answer is too large for one body: stream it", "stream", "answer_too_large"},
         now);
    return false;
}

void Api::send(Job& job, uint32_t choice, const Json& data, TimeUs now) {
    send_event(job, choice, event(data), now);
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
    const Json answer = whole_answer(job.head, choices, usage, wants, first.seed, token_texts_);
    responder_.respond(job.exchange, {200, "application/json", to_text(answer),
                                      {{"x-request-id", job.request_header}}});
    forget(job);
}

// In mid-stream the status is long out: an event says it, and no [DONE] follows.
void Api::fail(Job& job, const Problem& problem, TimeUs now) {
    cancel(job, now);
    if (job.streams) {
        send_event(job, 0, "data: " + problem_json(problem) + "\n\n", now);
        end_stream(job, now);
    } else {
        Response response = problem_response(problem);
        response.headers.emplace_back("x-request-id", job.request_header);
        responder_.respond(job.exchange, std::move(response));
    }
    forget(job);
}

}  // namespace chatloop::http
