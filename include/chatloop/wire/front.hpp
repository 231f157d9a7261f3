// The client front: requests in, pieces out (docs/protocol.md, "Client front").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "chatloop/core/chat_message.hpp"
#include "chatloop/core/constraint.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/wire/spans.hpp"
#include "chatloop/wire/status.hpp"

namespace chatloop::wire {

// ---- client front: client to router ----

using Message = ChatMessage;

struct LogitBias {
    uint32_t token = 0;
    float bias = 0.0f;
    bool operator==(const LogitBias&) const = default;
};

// What a client asked for; ranges are checked by the codec, what depends on the model by the
// router.
struct Parameters {
    std::variant<std::string, std::vector<Message>, std::vector<uint32_t>> prompt;
    std::string model;  // empty: whatever is served
    uint32_t max_tokens = 256;
    float temperature = 0.0f;
    float top_p = 1.0f;
    uint32_t top_k = 0;
    float min_p = 0.0f;
    float typical_p = 1.0f;
    float repetition_penalty = 1.0f;
    float presence_penalty = 0.0f;
    float frequency_penalty = 0.0f;
    std::vector<LogitBias> logit_bias;  // ids ascending
    std::optional<uint64_t> seed;
    uint32_t n = 1;
    uint32_t min_tokens = 0;  // at most max_tokens
    std::vector<std::string> stop;
    std::vector<uint32_t> stop_token_ids;
    bool echo = false;
    std::optional<uint32_t> logprobs;
    std::optional<uint32_t> prompt_logprobs;
    bool ignore_eos = false;
    int32_t priority = 0;  // the higher first
    std::optional<uint32_t> deadline_ms;  // from its arrival
    std::string traceparent;  // of W3C Trace Context; one that is not valid is ignored
    std::optional<Constraint> constraint;
    std::string tools;                 // for the chat template: JSON array, or empty
    std::string chat_template_kwargs;  // JSON object of what else it may look at, or empty

    bool has_penalties() const {
        return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
    }
    bool operator==(const Parameters&) const = default;
};

struct Submit {
    std::string request_id;
    Parameters parameters;
    bool operator==(const Submit&) const = default;
};

struct Cancel {
    std::string request_id;
    bool operator==(const Cancel&) const = default;
};

struct Progress {
    std::vector<uint32_t> prompt_ids;
    std::vector<std::vector<uint32_t>> choices;  // n, the tokens of each
    uint64_t seed = 0;
    std::string fingerprint;  // 16 hex digits
    bool operator==(const Progress&) const = default;
};

struct Resume {
    std::string request_id;
    uint32_t attempt = 0;
    Parameters parameters;
    Progress progress;
    bool operator==(const Resume&) const = default;
};

struct Ping {
    uint64_t nonce = 0;
    bool wants_requests = false;  // Pong::requests
    bool operator==(const Ping&) const = default;
};

struct StatusQuery {
    bool operator==(const StatusQuery&) const = default;
};

// Asks what a request spent its time on, while it runs or as long as it is remembered.
struct TraceQuery {
    std::string request_id;
    bool operator==(const TraceQuery&) const = default;
};

using ClientBody = std::variant<Submit, Cancel, Resume, Ping, StatusQuery, TraceQuery>;

// ---- client front: router to client ----

struct Accepted {
    std::string request_id;
    std::vector<uint32_t> prompt_ids;
    uint64_t seed = 0;
    std::string fingerprint;
    std::string model;
    std::optional<std::string> prompt_text;
    bool operator==(const Accepted&) const = default;
};

struct TopLogprob {
    uint32_t token = 0;
    float logprob = 0.0f;
    bool operator==(const TopLogprob&) const = default;
};

struct TokenEntry {
    uint32_t token = 0;
    float logprob = 0.0f;
    std::vector<TopLogprob> top;
    bool operator==(const TokenEntry&) const = default;
};

struct Piece {
    std::string request_id;
    uint32_t index = 0;  // of the first token
    std::vector<uint32_t> token_ids;
    std::string text;
    uint64_t text_offset = 0;
    std::optional<std::vector<TokenEntry>> logprobs;
    uint32_t choice = 0;
    bool operator==(const Piece&) const = default;
};

struct PromptPiece {
    std::string request_id;
    uint32_t index = 0;
    std::vector<std::optional<TokenEntry>> entries;
    bool operator==(const PromptPiece&) const = default;
};

using Stop = std::variant<std::monostate, std::string, uint32_t>;  // the text or id that ended it

struct ChoiceDone {
    std::string request_id;
    uint32_t choice = 0;
    std::string finish_reason;
    Stop stop;
    uint32_t completion_tokens = 0;
    bool operator==(const ChoiceDone&) const = default;
};

struct Done {
    std::string request_id;
    std::string finish_reason;
    Stop stop;
    uint32_t prompt_tokens = 0;
    uint32_t cached_tokens = 0;  // of them, found in the prefix cache
    uint32_t completion_tokens = 0;
    double queue_ms = 0.0;
    double prefill_ms = 0.0;
    double decode_ms = 0.0;
    bool operator==(const Done&) const = default;
};

struct Failure {
    std::optional<std::string> request_id;
    std::string code;
    std::string message;
    bool retryable = false;
    uint32_t committed = 0;
    std::optional<uint32_t> retry_after_ms;
    bool operator==(const Failure&) const = default;
};

// Of a request of this client that runs: what has been sent to it before the PONG. A client with
// less has lost a message on a connection that was made anew.
struct RunningRequest {
    std::string request_id;
    uint32_t attempt = 0;
    uint32_t tokens = 0;  // of all choices
    bool operator==(const RunningRequest&) const = default;
};

struct Pong {
    uint64_t nonce = 0;
    Incarnation router = 0;
    std::optional<std::vector<RunningRequest>> requests;  // when asked for
    bool operator==(const Pong&) const = default;
};

struct TraceReply {
    std::string request_id;
    std::optional<Trace> trace;  // nothing: not known
    bool operator==(const TraceReply&) const = default;
};

using RouterBody = std::variant<Accepted, Piece, PromptPiece, Done, Failure, Pong, StatusReply,
                                ChoiceDone, TraceReply>;

}  // namespace chatloop::wire
