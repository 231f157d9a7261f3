// Ingress: a SUBMIT or RESUME becomes a Sequence, its prompt becomes token ids (one text job, one
// unit of work), and what can never be served is answered at once.
#include <algorithm>
#include <set>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"
#include "chatloop/core/splitmix64.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

// Of a prompt and its answer: as many as the model has, or as the largest pool that there is. A
// smaller one takes what fits it (choose_route).
uint64_t positions_max(const Cluster& cluster, uint32_t context_length) {
    uint64_t largest = 0;
    for (const auto& [generation, route] : cluster.routes())
        largest = std::max(largest, route.kv->rows());
    return largest == 0 ? context_length : std::min<uint64_t>(context_length, largest);
}

}  // namespace

// For clients that gave none.
uint64_t Router::draw_seed() { return splitmix64(seed_state_); }

// The caller's, or a new one, of which a part is exported.
TraceContext Router::trace_context(const std::string& traceparent) {
    if (std::optional<TraceContext> given = parse_traceparent(traceparent)) return *given;
    const uint64_t high = splitmix64(trace_state_) | 1;
    const uint64_t low = splitmix64(trace_state_);
    const bool sampled = static_cast<double>(low) < config_.trace_ratio * 0x1p64;
    return {hex16(high) + hex16(low), "", sampled};
}

// Why a request cannot be taken at all; what needs its token ids is checked in prepare.
Status Router::admissible(const std::string& client, const wire::Parameters& parameters,
                          const std::optional<wire::Resume>& resume) const {
    if (draining_) return Error{ErrorCode::kDraining, "the router is shutting down"};
    if (!resume)  // before it waits for its text job
        if (const Status sized = check_prompt_bytes(parameters); !sized) return sized;
    if (waiting() >= config_.max_queue_size)
        return Error{ErrorCode::kQueueFull, "max_queue_size requests are waiting",
                     retry_after_ms()};
    const size_t constraint_bytes = parameters.constraint ? parameters.constraint->bytes() : 0;
    if (constraint_bytes_ + constraint_bytes > kConstraintsBytesMax)
        return Error{ErrorCode::kQueueFull, "the running requests' constraints are too large",
                     retry_after_ms()};
    if (!clients_.contains(client) && clients_.size() >= kClientsMax)
        return Error{ErrorCode::kQueueFull, "too many clients have running requests"};
    if (!parameters.model.empty() && parameters.model != config_.model_name)
        return Error{ErrorCode::kUnknownModel, "model \"" + parameters.model +
                                                   "\" is not served; this is \"" +
                                                   config_.model_name + "\""};
    if (resume && resume->progress.fingerprint != fingerprint_ && holds(Rule::kFingerprint))
        return Error{ErrorCode::kFingerprint,
                     "the answer was begun under fingerprint " + resume->progress.fingerprint +
                         ", this router computes " + fingerprint_};
    return Ok{};
}

void Router::on_submit(const std::string& client, const std::string& request_id,
                       wire::Parameters parameters, std::optional<wire::Resume> resume,
                       TimeUs now) {
    ++counters_.requests;
    const uint32_t attempt = resume ? resume->attempt : 0;
    if (const std::shared_ptr<Request> running = find_request(client, request_id)) {
        if (attempt <= running->attempt) {
            ++counters_.rejected;  // without its id, which would end the request that runs
            ++metrics_.ended[std::string(error_name(ErrorCode::kDuplicateId))];
            return reply_error(client, std::nullopt,
                               {ErrorCode::kDuplicateId, "request " + request_id + " is running"});
        }
        forget(*running);  // its client has lost the thread and takes it up again
        note_ended(*running, "resumed", now);
    }
    if (const Status ok = admissible(client, parameters, resume); !ok) {
        ++counters_.rejected;
        ++metrics_.ended[std::string(error_name(ok.error().code))];
        return reply_error(client, request_id, ok.error());
    }
    auto request = std::make_shared<Request>();
    request->client = client;
    request->id = request_id;
    request->choices = parameters.n;
    request->attempt = attempt;
    if (resume) request->resume = std::move(resume->progress);
    request->trace = trace_context(parameters.traceparent);
    if (parameters.constraint) request->constraint_bytes = parameters.constraint->bytes();
    constraint_bytes_ += request->constraint_bytes;
    SequenceStart start;
    start.client = client;
    start.request_id = request_id;
    start.arrived_at = now;
    if (parameters.deadline_ms)
        start.deadline_at = now + TimeUs{*parameters.deadline_ms} * kMillisecondUs;
    start.parameters = std::move(parameters);
    auto sequence = std::make_unique<Sequence>(std::move(start), request);
    sequence->id = ++last_sequence_;
    sequence->queued_at = now;
    sequence->trace.begin(PhaseKind::kTokenization, now);
    request->running = {sequence->id};
    Client& entry = clients_[client];
    entry.heard_at = now;
    entry.requests[request_id] = std::move(request);
    set_timeout(*sequence);
    text_jobs_.push_back(sequence->id);
    sequences_[sequence->id] = std::move(sequence);
}

void Router::run_unit(TimeUs now) {
    CL_ASSERT(has_work());
    Sequence& sequence = *sequences_.at(text_jobs_.front());
    text_jobs_.pop_front();
    Status prepared = prepare(sequence);
    if (prepared) prepared = accept(sequence);
    if (!prepared) {
        ++counters_.rejected;
        return fail(sequence, prepared.error());
    }
    const std::shared_ptr<Request> request = sequence.request;
    if (request->choices > 1) {
        request->others = static_cast<const SequenceStart&>(sequence);
        request->others->parameters.prompt_logprobs.reset();
    }
    begin(sequence, now);
    if (!request->others) request->resume.reset();
    schedule(now);
}

Result<std::vector<uint32_t>> Router::encode_prompt(const wire::Parameters& parameters) const {
    if (const auto* ids = std::get_if<std::vector<uint32_t>>(&parameters.prompt)) return *ids;
    if (const auto* messages = std::get_if<std::vector<wire::Message>>(&parameters.prompt))
        return text_.encode_chat({*messages, parameters.tools, parameters.chat_template_kwargs,
                                  true});
    const std::string& prompt = std::get<std::string>(parameters.prompt);
    Result<std::vector<uint32_t>> ids = text_.encode_plain(prompt);
    if (ids && config_.add_bos) ids->insert(ids->begin(), config_.bos_id);
    return ids;
}

// Text that is far longer than any context holds is refused before it costs a text job's time.
Status Router::check_prompt_bytes(const wire::Parameters& parameters) const {
    uint64_t bytes = parameters.tools.size() + parameters.chat_template_kwargs.size();
    if (const auto* text = std::get_if<std::string>(&parameters.prompt)) bytes += text->size();
    if (const auto* messages = std::get_if<std::vector<wire::Message>>(&parameters.prompt))
        for (const wire::Message& message : *messages)
            bytes += message.content.size() + message.tool_calls.size();
    const uint64_t bytes_max = prompt_bytes_max(config_.context_length);
    if (bytes <= bytes_max) return Ok{};
    return Error{ErrorCode::kPromptTooLong,
                 "the prompt has " + std::to_string(bytes) + " bytes; at most " +
                     std::to_string(bytes_max) + " are served with a context of " +
                     std::to_string(config_.context_length) + " tokens"};
}

// Text to ids, and every check that needs them.
Status Router::prepare(Sequence& sequence) {
    const wire::Parameters& parameters = sequence.parameters;
    const std::optional<wire::Progress>& resume = sequence.request->resume;
    if (resume) {
        sequence.ids = resume->prompt_ids;
        sequence.seed = resume->seed;
    } else {
        Result<std::vector<uint32_t>> ids = encode_prompt(parameters);
        if (!ids) return ids.error();
        sequence.ids = std::move(*ids);
        sequence.seed = parameters.seed ? *parameters.seed : draw_seed();
    }
    if (sequence.ids.empty()) return Error{ErrorCode::kInvalidRequest, "the prompt is empty"};
    sequence.prompt_count = static_cast<uint32_t>(sequence.ids.size());
    for (const uint32_t id : sequence.ids)
        if (const Status known = in_vocabulary(id); !known) return known;
    size_t answer = parameters.max_tokens > 0 ? 1 : 0;  // tokens that there must be room for
    if (resume) {
        for (const std::vector<uint32_t>& tokens : resume->choices) {
            answer = std::max(answer, tokens.size());
            for (const uint32_t id : tokens)
                if (const Status known = in_vocabulary(id); !known) return known;
        }
    }
    const uint64_t context = positions_max(cluster_, config_.context_length);
    if (sequence.ids.size() + answer > context) {
        return Error{ErrorCode::kPromptTooLong,
                     "the prompt has " + std::to_string(sequence.prompt_count) +
                         " tokens; prompt and answer together fit " + std::to_string(context)};
    }
    sequence.tokens_max = static_cast<uint32_t>(
        std::min<uint64_t>(parameters.max_tokens, context - sequence.prompt_count));
    if (const Status cut = cut_to_history(sequence); !cut) return cut;
    if (parameters.repetition_penalty != 1.0f)
        for (const uint32_t id : sequence.ids) sequence.history.add_prompt(id);
    sequence.text = text_.stream(true);
    sequence.stop_text = StopText(parameters.stop);
    sequence.parameters.prompt = std::string();  // it is ids now
    sequence.parameters.tools.clear();
    sequence.parameters.chat_template_kwargs.clear();
    if (const Status sampling = check_sampling(sequence); !sampling) return sampling;
    return compile_constraint(sequence);
}

// What the sampler could not do, or a frame not carry.
Status Router::check_sampling(const Sequence& sequence) const {
    const wire::Parameters& parameters = sequence.parameters;
    for (const wire::LogitBias& bias : parameters.logit_bias)
        if (const Status known = in_vocabulary(bias.token); !known) return known;
    std::set<uint32_t> masked;
    for (const uint32_t id : masked_ids(sequence, 0))
        if (id < config_.cluster.vocab) masked.insert(id);
    if (masked.size() == config_.cluster.vocab)
        return Error{ErrorCode::kInvalidRequest,
                     "min_tokens cannot be had: every token of the vocabulary is a stop id"};
    return Ok{};
}

// Penalties look at so many different ids as a frame carries: an answer is not longer, as it is not
// longer than the context.
Status Router::cut_to_history(Sequence& sequence) const {
    const wire::Parameters& parameters = sequence.parameters;
    if (!parameters.has_penalties() || config_.cluster.vocab <= kHistoryIdsMax) return Ok{};
    const uint32_t prompt = parameters.repetition_penalty != 1.0f ? sequence.prompt_count : 0;
    if (prompt >= kHistoryIdsMax)
        return Error{ErrorCode::kInvalidRequest,
                     "repetition_penalty looks at no more than " + std::to_string(kHistoryIdsMax) +
                         " tokens; the prompt has " + std::to_string(prompt)};
    sequence.tokens_max = std::min(sequence.tokens_max, kHistoryIdsMax - prompt);
    return Ok{};
}

Status Router::in_vocabulary(uint32_t id) const {
    if (id < config_.cluster.vocab) return Ok{};
    return Error{ErrorCode::kInvalidRequest,
                 "token id " + std::to_string(id) + " is not in the vocabulary of " +
                     std::to_string(config_.cluster.vocab)};
}

Status Router::accept(Sequence& sequence) {
    wire::Accepted accepted;
    accepted.request_id = sequence.request_id;
    accepted.prompt_ids = sequence.ids;
    accepted.seed = sequence.seed;
    accepted.fingerprint = fingerprint_;
    accepted.model = config_.model_name;
    if (sequence.parameters.echo) {
        Result<std::string> text = text_.decode(accepted.prompt_ids, false);
        if (!text) return text.error();
        if (text->size() > kPromptBytesMax)
            return Error{ErrorCode::kInvalidRequest, "the prompt's text is too long to echo"};
        accepted.prompt_text = std::move(*text);
    }
    send(sequence.client, accepted);
    if (sequence.wants_prompt_logprobs()) {
        send(sequence.client, wire::PromptPiece{sequence.request_id, 0, {std::nullopt}});
        sequence.prompt_entries_sent = 1;
    }
    return Ok{};
}

}  // namespace chatloop
