// A completion's way: in as SUBMITs, out as one body or as events.
#include "chatloop/http/api.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

constexpr TimeUs kStreamPingUs = 15 * kSecondUs;
constexpr TimeUs kLookUs = kSecondUs;

// splitmix64 (Steele, Lea, Flood 2014).
uint64_t splitmix64(uint64_t& state) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// What a client may name its request: it comes back in a header.
bool is_plain_id(std::string_view text) {
    return !text.empty() && text.size() <= kRequestIdBytesMax &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

// A message to the router is bounded; what fits the model is the router's to say.
size_t prompt_bytes(const Prompt& prompt) {
    if (const auto* text = std::get_if<std::string>(&prompt)) return text->size();
    size_t bytes = 0;
    if (const auto* messages = std::get_if<std::vector<wire::Message>>(&prompt))
        for (const wire::Message& message : *messages)
            bytes += message.role.size() + message.content.size();
    return bytes;  // ids: kPromptIdsMax of them are less
}

size_t entry_bytes(const wire::TokenEntry& entry) {
    return sizeof entry + entry.top.size() * sizeof(wire::TopLogprob);
}

}  // namespace

Api::Api(ApiConfig config, Responder& responder, const TextEngine& text, ToRouter to_router)
    : config_(std::move(config)),
      responder_(responder),
      text_(text),
      to_router_(std::move(to_router)),
      token_texts_(text),
      id_state_(config_.seed),
      started_at_(config_.unix_time()) {}

// ---- requests ----

std::variant<Json, Response> body_of(const Request& request) {
    auto parsed = parse_object(request.body);
    if (auto* problem = std::get_if<Problem>(&parsed)) return problem_response(*problem);
    return std::move(std::get<Json>(parsed));
}

std::string Api::make_id(Surface surface) {
    const char* prefix = surface == Surface::kChat   ? "chatcmpl-"
                         : surface == Surface::kText ? "cmpl-"
                                                     : "exec-";
    return prefix + hex16(splitmix64(id_state_));
}

std::optional<Response> Api::on_post(ExchangeId id, Request& request, Reader read, TimeUs now) {
    const auto body = body_of(request);
    if (const auto* refusal = std::get_if<Response>(&body)) return *refusal;
    AskOrProblem asked = read(std::get<Json>(body));
    if (const auto* problem = std::get_if<Problem>(&asked)) return problem_response(*problem);
    const Ask& ask = std::get<Ask>(asked);
    for (const Prompt& prompt : ask.prompts)
        if (prompt_bytes(prompt) > kPromptBytesMax)
            return problem_response({400, "the prompt is larger than " +
                                              std::to_string(kPromptBytesMax) + " bytes",
                                     ask.surface == Surface::kChat ? "messages" : "prompt",
                                     "context_length_exceeded"});
    if (jobs_.size() >= kHttpJobsMax)
        return problem_response({429, "too many requests are running", "", "queue_full", 1000});
    request.body = {};
    auto owned = std::make_unique<Job>();
    Job& job = *owned;
    job.exchange = id;
    job.client = std::string(kClientPrefix) + request.peer;
    job.ask = std::move(std::get<Ask>(asked));
    const std::string_view caller = request.header("traceparent");  // of W3C Trace Context
    if (caller.size() <= kNameBytesMax) job.ask.parameters.traceparent = caller;
    job.head = {job.ask.surface, make_id(job.ask.surface), config_.unix_time(), config_.model,
                "fp_" + config_.fingerprint, job.ask.include_usage};
    const std::string_view given = request.header("x-request-id");
    job.request_header = is_plain_id(given) ? std::string(given) : job.head.id;
    job.wrote_at = now;
    jobs_[id] = std::move(owned);
    ++clients_[job.client];
    submit(job, now);
    return std::nullopt;
}

void Api::submit(Job& job, TimeUs now) {
    const uint32_t n = job.ask.parameters.n;
    job.parts.resize(job.ask.prompts.size());
    for (size_t i = 0; i < job.parts.size(); ++i) {
        Part& part = job.parts[i];
        part.request_id = job.head.id + (i == 0 ? std::string() : "-" + std::to_string(i));
        part.choices.resize(n);
        for (uint32_t c = 0; c < n; ++c) part.choices[c].index = static_cast<uint32_t>(i) * n + c;
        by_request_[part.request_id] = {job.exchange, i};
    }
    // The router may answer at once, and an error of one prompt ends the job.
    const ExchangeId exchange = job.exchange;
    const std::string client = job.client;
    for (size_t i = 0; i < job.ask.prompts.size(); ++i) {
        wire::Submit message{job.parts[i].request_id, job.ask.parameters};
        message.parameters.prompt = std::move(job.ask.prompts[i]);
        to_router_(client, message, now);
        if (!jobs_.contains(exchange)) return;
    }
}

// ---- what the router says ----

Api::Job* Api::find(const std::string& request_id, Part** part) {
    const auto known = by_request_.find(request_id);
    if (known == by_request_.end()) return nullptr;  // cancelled meanwhile
    Job* job = jobs_.at(known->second.first).get();
    *part = &job->parts[known->second.second];
    return job;
}

void Api::on_router(const wire::RouterBody& message, TimeUs now) {
    if (const auto* piece = std::get_if<wire::Piece>(&message)) {
        on_piece(*piece, now);
    } else if (const auto* accepted = std::get_if<wire::Accepted>(&message)) {
        on_accepted(*accepted, now);
    } else if (const auto* prompt = std::get_if<wire::PromptPiece>(&message)) {
        on_prompt_piece(*prompt);
    } else if (const auto* end = std::get_if<wire::ChoiceDone>(&message)) {
        Part* part = nullptr;
        if (Job* job = find(end->request_id, &part))
            on_end(*job, *part, end->choice, end->finish_reason, end->stop, now);
    } else if (const auto* done = std::get_if<wire::Done>(&message)) {
        on_done(*done, now);
    } else if (const auto* failure = std::get_if<wire::Failure>(&message)) {
        on_failure(*failure, now);
    }
}

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
    if (!job->streams) {
        job->streams = true;
        job->wrote_at = now;
        responder_.start_stream(job->exchange,
                                {200,
                                 "text/event-stream; charset=utf-8",
                                 "",
                                 {{"Cache-Control", "no-cache"},
                                  {"X-Accel-Buffering", "no"},
                                  {"x-request-id", job->request_header}}});
    }
    if (job->ask.surface == Surface::kChat)
        for (const Choice& choice : part->choices)
            send(*job, role_chunk(job->head, choice.index), now);
}

// Log-probabilities of the prompt stand before those of the answer, in every choice.
void Api::on_prompt_piece(const wire::PromptPiece& piece) {
    Part* part = nullptr;
    Job* job = find(piece.request_id, &part);
    if (job == nullptr) return;
    for (size_t i = 0; i < piece.entries.size(); ++i) {
        wire::TokenEntry entry{part->prompt_ids.at(piece.index + i),
                               std::numeric_limits<float>::quiet_NaN(), {}};
        if (piece.entries[i]) entry = *piece.entries[i];
        for (Choice& choice : part->choices) choice.logprobs.push_back(entry);
    }
}

void Api::on_piece(const wire::Piece& piece, TimeUs now) {
    Part* part = nullptr;
    Job* job = find(piece.request_id, &part);
    if (job == nullptr) return;
    Choice& choice = part->choices.at(piece.choice);
    choice.text += piece.text;
    size_t bytes = piece.text.size();
    if (piece.logprobs) {
        for (const wire::TokenEntry& entry : *piece.logprobs) {
            bytes += entry_bytes(entry);
            choice.logprobs.push_back(entry);
        }
    }
    if (!job->ask.stream) {
        hold(*job, bytes, now);
        return;
    }
    if (choice.text.empty() && choice.logprobs.empty()) return;  // a part of a character
    const bool wants = job->ask.parameters.logprobs.has_value();
    send(*job, text_chunk(job->head, choice, wants, token_texts_), now);
    for (const wire::TokenEntry& entry : choice.logprobs)
        choice.text_offset += characters(token_texts_.of(entry.token));
    choice.text.clear();
    choice.logprobs.clear();
}

void Api::on_end(Job& job, Part& part, uint32_t index, const std::string& reason, wire::Stop stop,
                 TimeUs now) {
    Choice& choice = part.choices.at(index);
    choice.finish_reason = reason;
    choice.stop = std::move(stop);
    if (!job.ask.stream || job.ask.surface == Surface::kExecute) return;
    if (!choice.text.empty() || !choice.logprobs.empty()) {  // an echo without an answer
        Choice rest = choice;
        rest.finish_reason.clear();
        send(job, text_chunk(job.head, rest, job.ask.parameters.logprobs.has_value(), token_texts_),
             now);
    }
    send(job, end_chunk(job.head, choice), now);
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
    fail(job, {400, "the answer is too large for one body: stream it", "stream", "answer_too_large"},
         now);
    return false;
}

void Api::send(Job& job, const Json& data, TimeUs now) {
    job.wrote_at = now;
    responder_.write(job.exchange, event(data));
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
            send(job, execute_end(job.head, first.choices[0], usage, first.seed), now);
        } else {
            if (job.ask.include_usage) send(job, usage_chunk(job.head, usage), now);
            responder_.write(job.exchange, kStreamEnd);
        }
        responder_.end(job.exchange);
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
        responder_.write(job.exchange, "data: " + problem_json(problem) + "\n\n");
        responder_.end(job.exchange);
    } else {
        Response response = problem_response(problem);
        response.headers.emplace_back("x-request-id", job.request_header);
        responder_.respond(job.exchange, std::move(response));
    }
    forget(job);
}

// What the router says to that finds nobody any more.
void Api::cancel(const Job& job, TimeUs now) {
    std::vector<std::string> running;
    for (const Part& part : job.parts) {
        if (!part.ended) running.push_back(part.request_id);
        by_request_.erase(part.request_id);
    }
    for (const std::string& request_id : running)
        to_router_(job.client, wire::Cancel{request_id}, now);
}

void Api::forget(Job& job) {
    for (const Part& part : job.parts) by_request_.erase(part.request_id);
    const auto client = clients_.find(job.client);
    if (--client->second == 0) clients_.erase(client);
    jobs_.erase(job.exchange);
}

void Api::on_gone(ExchangeId id, TimeUs now) {
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return;
    cancel(*found->second, now);
    forget(*found->second);
}

// ---- time ----

TimeUs Api::next_timer() const {
    if (jobs_.empty()) return kNever;
    const TimeUs silence = config_.client_silence_us;
    const TimeUs ping_at = silence == kNever ? kNever : pinged_at_ + silence / 3;
    return std::min(looked_at_ + kLookUs, ping_at);
}

// The router hears that its clients live, and clients and proxies that their stream does.
void Api::on_tick(TimeUs now) {
    if (jobs_.empty()) {
        pinged_at_ = looked_at_ = now;
        return;
    }
    const TimeUs silence = config_.client_silence_us;
    if (silence != kNever && now - pinged_at_ >= silence / 3) {
        pinged_at_ = now;
        const std::map<std::string, size_t> clients = clients_;
        for (const auto& [client, jobs] : clients) to_router_(client, wire::Ping{}, now);
    }
    if (now - looked_at_ < kLookUs) return;
    looked_at_ = now;
    for (auto& [id, job] : jobs_) {
        if (!job->streams || now - job->wrote_at < kStreamPingUs) continue;
        job->wrote_at = now;
        responder_.write(id, kStreamPing);
    }
}

}  // namespace chatloop::http
