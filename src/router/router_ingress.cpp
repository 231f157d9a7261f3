// Ingress: a SUBMIT or RESUME becomes a Sequence, its prompt becomes token ids (one text job, one
// unit of work), and what can never be served is answered at once.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

constexpr uint32_t kBlockRows = 64;
constexpr uint64_t kBytesPerToken = 16;  // far above what any text has on average

// splitmix64 (Steele, Lea, Flood 2014): seeds for clients that gave none.
uint64_t splitmix64(uint64_t& state) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

}  // namespace

uint64_t Router::draw_seed() { return splitmix64(seed_state_); }

void Router::on_submit(const std::string& client, wire::Parameters parameters,
                       std::string request_id, std::optional<wire::Progress> progress, TimeUs now) {
    ++counters_.requests;
    const auto refuse = [&](ErrorCode code, const std::string& why) {
        ++counters_.rejected;
        reply_error(client, request_id, {code, why});
    };
    if (draining_) return refuse(ErrorCode::kDraining, "the router is shutting down");
    if (waiting() >= config_.max_queue_size)
        return refuse(ErrorCode::kQueueFull, "max_queue_size requests are waiting");
    if (!clients_.contains(client) && clients_.size() >= kClientsMax)
        return refuse(ErrorCode::kQueueFull, "too many clients have running requests");
    if (!parameters.model.empty() && parameters.model != config_.model_name)
        return refuse(ErrorCode::kUnknownModel,
                      "model \"" + parameters.model + "\" is not served; this is \"" +
                          config_.model_name + "\"");
    if (progress && progress->fingerprint != fingerprint_)
        return refuse(ErrorCode::kFingerprint,
                      "the answer was begun under fingerprint " + progress->fingerprint +
                          ", this router computes " + fingerprint_);
    Client& entry = clients_[client];
    entry.heard_at = now;
    if (entry.requests.contains(request_id)) {
        ++counters_.rejected;  // without its id, which would end the request that runs
        return reply_error(client, std::nullopt,
                           {ErrorCode::kDuplicateId, "request " + request_id + " is running"});
    }
    auto sequence = std::make_unique<Sequence>();
    sequence->id = ++last_sequence_;
    sequence->client = client;
    sequence->request_id = std::move(request_id);
    sequence->arrived_at = now;
    sequence->parameters = std::move(parameters);
    entry.requests[sequence->request_id] = sequence->id;
    if (progress) resumes_[sequence->id] = std::move(*progress);
    text_jobs_.push_back(sequence->id);
    sequences_[sequence->id] = std::move(sequence);
}

void Router::run_unit(TimeUs now) {
    CL_ASSERT(has_work());
    Sequence& sequence = *sequences_.at(text_jobs_.front());
    text_jobs_.pop_front();
    const Status prepared = prepare(sequence);
    resumes_.erase(sequence.id);
    if (!prepared) {
        ++counters_.rejected;
        return fail(sequence, prepared.error());
    }
    accept(sequence);
    const bool asks_nothing = sequence.tokens_max == 0 && !sequence.wants_prompt_logprobs();
    if (asks_nothing || (sequence.tokens_max > 0 && sequence.committed() >= sequence.tokens_max)) {
        wire::Done done;
        done.finish_reason = "length";
        return finish(sequence, std::move(done), now);
    }
    waiting_.push_back(sequence.id);
    schedule(now);
}

Result<std::vector<uint32_t>> Router::encode_prompt(const wire::Parameters& parameters) const {
    if (const auto* ids = std::get_if<std::vector<uint32_t>>(&parameters.prompt)) return *ids;
    if (const auto* messages = std::get_if<std::vector<wire::Message>>(&parameters.prompt)) {
        std::vector<ChatMessage> chat;
        for (const wire::Message& message : *messages)
            chat.push_back({message.role, message.content});
        return text_.encode_chat(chat, true);
    }
    const std::string& prompt = std::get<std::string>(parameters.prompt);
    Result<std::vector<uint32_t>> ids = text_.encode_plain(prompt);
    if (ids && config_.add_bos) ids->insert(ids->begin(), config_.bos_id);
    return ids;
}

// Text that is far longer than any context holds is refused before it costs a text job's time.
Status Router::check_prompt_bytes(const wire::Parameters& parameters) const {
    uint64_t bytes = 0;
    if (const auto* text = std::get_if<std::string>(&parameters.prompt)) bytes = text->size();
    if (const auto* messages = std::get_if<std::vector<wire::Message>>(&parameters.prompt))
        for (const wire::Message& message : *messages) bytes += message.content.size();
    const uint64_t bytes_max = std::min<uint64_t>(kBytesPerToken * config_.context_length,
                                                  kPromptBytesMax);
    if (bytes <= bytes_max) return Ok{};
    return Error{ErrorCode::kPromptTooLong,
                 "the prompt has " + std::to_string(bytes) + " bytes; at most " +
                     std::to_string(bytes_max) + " are served with a context of " +
                     std::to_string(config_.context_length) + " tokens"};
}

// Text to ids, and every check that needs them.
Status Router::prepare(Sequence& sequence) {
    const wire::Parameters& parameters = sequence.parameters;
    const auto resume = resumes_.find(sequence.id);
    if (resume != resumes_.end()) {
        sequence.ids = resume->second.prompt_ids;
        sequence.seed = resume->second.seed;
    } else {
        if (const Status sized = check_prompt_bytes(parameters); !sized) return sized.error();
        Result<std::vector<uint32_t>> ids = encode_prompt(parameters);
        if (!ids) return ids.error();
        sequence.ids = std::move(*ids);
        sequence.seed = parameters.seed ? *parameters.seed : draw_seed();
    }
    if (sequence.ids.empty()) return Error{ErrorCode::kInvalidRequest, "the prompt is empty"};
    sequence.prompt_count = static_cast<uint32_t>(sequence.ids.size());
    if (resume != resumes_.end()) {
        const std::vector<uint32_t>& done = resume->second.token_ids;
        sequence.ids.insert(sequence.ids.end(), done.begin(), done.end());
    }
    for (const uint32_t id : sequence.ids) {
        if (id < config_.cluster.vocab) continue;
        return Error{ErrorCode::kInvalidRequest,
                     "token id " + std::to_string(id) + " is not in the vocabulary of " +
                         std::to_string(config_.cluster.vocab)};
    }
    uint64_t context = config_.context_length;
    for (const auto& [generation, route] : cluster_.routes())
        context = std::min<uint64_t>(context, uint64_t{route.kv->block_count()} * kBlockRows);
    const uint64_t needed = uint64_t{sequence.prompt_count} + (parameters.max_tokens > 0 ? 1 : 0);
    if (needed > context || sequence.ids.size() > context) {
        return Error{ErrorCode::kPromptTooLong,
                     "the prompt has " + std::to_string(sequence.prompt_count) +
                         " tokens; prompt and answer together fit " + std::to_string(context)};
    }
    sequence.tokens_max = static_cast<uint32_t>(
        std::min<uint64_t>(parameters.max_tokens, context - sequence.prompt_count));
    sequence.text = text_.stream(true);
    sequence.stop_text = StopText(parameters.stop);
    for (uint32_t i = sequence.prompt_count; i < sequence.ids.size(); ++i) {
        // A resumed answer: its text so far is with the client, what is held back is rebuilt.
        Result<std::string> text = sequence.text->push(sequence.ids[i]);
        if (!text) return text.error();
        sequence.text_offset += sequence.stop_text.push(*text).text.size();
    }
    return Ok{};
}

void Router::accept(Sequence& sequence) {
    wire::Accepted accepted;
    accepted.request_id = sequence.request_id;
    accepted.prompt_ids.assign(sequence.ids.begin(), sequence.ids.begin() + sequence.prompt_count);
    accepted.seed = sequence.seed;
    accepted.fingerprint = fingerprint_;
    accepted.model = config_.model_name;
    if (sequence.parameters.echo) {
        const Result<std::string> text = text_.decode(accepted.prompt_ids, false);
        accepted.prompt_text = text ? *text : std::string();
    }
    send(sequence.client, accepted);
    if (!sequence.wants_prompt_logprobs()) return;
    send(sequence.client, wire::PromptPiece{sequence.request_id, 0, {std::nullopt}});
    sequence.prompt_entries_sent = 1;
}

}  // namespace chatloop
