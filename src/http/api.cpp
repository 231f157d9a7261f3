// A completion's way in: as SUBMITs. Its ends, and time. Its way out is in api_answers.cpp.
#include "chatloop/http/api.hpp"

#include <algorithm>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/core/splitmix64.hpp"

namespace chatloop::http {

namespace {

constexpr TimeUs kStreamPingUs = 15 * kSecondUs;
constexpr TimeUs kLookUs = kSecondUs;

// A message to the router is bounded; what fits the model is the router's to say.
size_t prompt_bytes(const Prompt& prompt) {
    if (const auto* text = std::get_if<std::string>(&prompt)) return text->size();
    size_t bytes = 0;
    if (const auto* messages = std::get_if<std::vector<wire::Message>>(&prompt))
        for (const wire::Message& message : *messages)
            bytes += message.role.size() + message.content.size() + message.name.size() +
                     message.tool_calls.size() + message.tool_call_id.size();
    return bytes;  // ids: kPromptIdsMax of them are less
}

}  // namespace

Api::Api(ApiConfig config, Responder& responder, const TextEngine& text, ToRouter to_router)
    : config_(std::move(config)),
      responder_(responder),
      text_(text),
      to_router_(std::move(to_router)),
      token_texts_(text),
      tool_format_(tool_format(text.chat_template())),
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
    if (const std::optional<Problem> problem = refuse(std::get<Ask>(asked)))
        return problem_response(*problem);
    request.body = {};
    auto owned = std::make_unique<Job>();
    Job& job = *owned;
    job.exchange = id;
    job.client = std::string(kClientPrefix) + request.peer;
    job.ask = std::move(std::get<Ask>(asked));
    const std::string_view caller = request.header("traceparent");  // of W3C Trace Context
    if (is_plain_id(caller)) job.ask.parameters.traceparent = caller;  // else as if there were none
    job.head = {job.ask.surface, make_id(job.ask.surface), config_.unix_time(), config_.model,
                "fp_" + config_.fingerprint, job.ask.include_usage};
    if (job.ask.stream) job.head.text_chunk_begin = text_chunk_begin(job.head);
    const std::string_view given = request.header("x-request-id");
    job.request_header = is_plain_id(given) ? std::string(given) : job.head.id;
    job.wrote_at = now;
    jobs_[id] = std::move(owned);
    ++clients_[job.client];
    submit(job, now);
    return std::nullopt;
}

// What is not taken, or the constraint that makes it call a tool.
std::optional<Problem> Api::refuse(Ask& ask) const {
    size_t bytes = ask.parameters.tools.size() + ask.parameters.chat_template_kwargs.size();
    for (const Prompt& prompt : ask.prompts) {
        if (bytes + prompt_bytes(prompt) <= kPromptBytesMax) continue;
        return Problem{400, "the prompt is larger than " + std::to_string(kPromptBytesMax) +
                                " bytes",
                       ask.surface == Surface::kChat ? "messages" : "prompt",
                       "context_length_exceeded"};
    }
    if (ask.resumable && ask.prompts.size() > 1)
        return Problem{400, "a resumable stream has one prompt", "stream_options.resumable",
                       "unsupported"};
    if (jobs_.size() >= kHttpJobsMax || (ask.resumable && streams_.size() >= kHttpStreamsKeptMax))
        return Problem{429, "too many requests are running", "", "queue_full", kAgainMs};
    if (const Status fits = constrain_calls(ask); !fits)
        return Problem{400, fits.error().message, ask.tool_required ? "tool_choice" : "tools",
                       "unsupported"};
    return std::nullopt;
}

// A call that must be made, or one that may stand where the answer otherwise has a form.
Status Api::constrain_calls(Ask& ask) const {
    const std::optional<Constraint>& constraint = ask.parameters.constraint;
    std::string or_schema;
    if (constraint && constraint->kind == ConstraintKind::kJsonSchema)
        or_schema = constraint->texts.at(0);
    if (constraint && constraint->kind == ConstraintKind::kJsonObject)
        or_schema = R"({"type":"object"})";
    const bool may_call = !ask.parameters.tools.empty() && tool_format_ == ToolFormat::kHermes;
    if (!ask.tool_required && (!may_call || or_schema.empty())) return Ok{};
    Result<std::string> grammar = tool_grammar(tool_format_, ask.parameters.tools, ask.called_tool,
                                               ask.parallel_tool_calls, or_schema);
    if (!grammar) return grammar.error();
    if (grammar->size() > kConstraintBytesMax)
        return Error{ErrorCode::kInvalidRequest, "the schemas are too large"};
    ask.parameters.constraint = Constraint{ConstraintKind::kGrammar, {std::move(*grammar)}};
    return Ok{};
}

void Api::make_part(Job& job, size_t index, bool has_tools) {
    const uint32_t n = job.ask.parameters.n;
    Part& part = job.parts.at(index);
    part.request_id = job.head.id + (index == 0 ? std::string() : "-" + std::to_string(index));
    part.heard.resize(n);
    part.choices.resize(n);
    for (uint32_t c = 0; c < n; ++c) part.choices[c].index = static_cast<uint32_t>(index) * n + c;
    if (has_tools) part.parsers.assign(n, ToolCallParser(tool_format_));
    by_request_[part.request_id] = {job.exchange, index};
}

void Api::submit(Job& job, TimeUs now) {
    job.parts.resize(job.ask.prompts.size());
    for (size_t i = 0; i < job.parts.size(); ++i)
        make_part(job, i, !job.ask.parameters.tools.empty());
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
    if (const auto* failure = std::get_if<wire::Failure>(&message))
        if (puts_off(*failure, now)) return;
    say(message, now);
}

void Api::say(const wire::RouterBody& message, TimeUs now) {
    if (const auto* piece = std::get_if<wire::Piece>(&message)) {
        keep(piece->request_id, message);
        on_piece(*piece, now);
    } else if (const auto* accepted = std::get_if<wire::Accepted>(&message)) {
        on_accepted(*accepted, now);
    } else if (const auto* prompt = std::get_if<wire::PromptPiece>(&message)) {
        keep(prompt->request_id, message);
        on_prompt_piece(*prompt, now);
    } else if (const auto* end = std::get_if<wire::ChoiceDone>(&message)) {
        keep(end->request_id, message);
        Part* part = nullptr;
        if (Job* job = find(end->request_id, &part))
            on_end(*job, *part, end->choice, end->finish_reason, end->stop, now);
    } else if (const auto* done = std::get_if<wire::Done>(&message)) {
        keep(done->request_id, message);
        on_done(*done, now);
    } else if (const auto* failure = std::get_if<wire::Failure>(&message)) {
        keep(failure->request_id.value_or(""), message);
        on_failure(*failure, now);
    }
}

// ---- ends ----

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
    held_bytes_ -= job.held_bytes;
    std::erase(put_off_, job.exchange);
    const auto client = clients_.find(job.client);
    if (--client->second == 0) clients_.erase(client);
    jobs_.erase(job.exchange);
}

void Api::on_gone(ExchangeId id, TimeUs now) {
    if (const auto reader = attached_.find(id); reader != attached_.end())
        return detach(streams_.at(std::string(reader->second)), now);
    const auto found = jobs_.find(id);
    if (found == jobs_.end() || found->second->stream != nullptr) return;  // another reads it
    cancel(*found->second, now);
    forget(*found->second);
}

// ---- time ----

TimeUs Api::next_timer() const {
    if (jobs_.empty() && streams_.empty()) return kNever;
    const TimeUs silence = config_.client_silence_us;
    const TimeUs ping_at = silence == kNever ? kNever : pinged_at_ + silence / 3;
    const TimeUs resume_at = put_off_.empty() ? kNever : resume_at_;
    return std::min({looked_at_ + kLookUs, ping_at, resume_at});
}

// The router hears that its clients live, and clients and proxies that their stream does.
void Api::on_tick(TimeUs now) {
    if (jobs_.empty() && streams_.empty()) {
        pinged_at_ = looked_at_ = now;
        return;
    }
    settle_restored(now);
    resume_put_off(now);
    const TimeUs silence = config_.client_silence_us;
    if (silence != kNever && now - pinged_at_ >= silence / 3) {
        pinged_at_ = now;
        const std::map<std::string, size_t> clients = clients_;
        for (const auto& [client, jobs] : clients) to_router_(client, wire::Ping{}, now);
    }
    if (now - looked_at_ < kLookUs) return;
    looked_at_ = now;
    expire_streams(now);
    for (auto& [id, job] : jobs_)
        if (job->streams && now - job->wrote_at >= kStreamPingUs) write(*job, kStreamPing, now);
}

}  // namespace chatloop::http
