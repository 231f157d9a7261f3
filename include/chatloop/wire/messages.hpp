// Every message of docs/protocol.md as a plain struct, in hop order. wire/codec.hpp turns them into
// bytes and back. No msgpack here.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop::wire {

inline constexpr uint8_t kProtocolVersion = 1;

// ---- control: worker to router ----

enum Role : uint8_t { kRoleStage = 1, kRoleSampler = 2 };

struct Share {
    uint32_t frames = 0;
    uint64_t bytes = 0;
    uint32_t slots = 0;
    uint32_t blocks = 0;
    bool operator==(const Share&) const = default;
};

struct Hello {
    std::string name;
    uint8_t roles = 0;  // Role bits
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;  // half-open
    uint32_t layers = 0;     // of the whole model
    uint32_t width = 0;      // floats per residual row
    uint32_t vocab = 0;
    std::string endpoint;  // of its PULL socket
    std::string model_id;
    std::string cut_id;
    uint64_t fingerprint = 0;
    std::string kernels;
    uint64_t self_test = 0;
    Share share;
    bool operator==(const Hello&) const = default;
};

struct Ready {
    Generation generation = 0;
    bool operator==(const Ready&) const = default;
};

struct Unreachable {
    Generation generation = 0;
    uint8_t hop = 0;
    Incarnation peer = 0;
    bool operator==(const Unreachable&) const = default;
};

struct Fenced {
    Generation through = 0;
    bool operator==(const Fenced&) const = default;
};

enum class GapReason : uint8_t {
    kNumber = 1,
    kBodyCrc = 2,
    kUnknownGeneration = 3,
    kMalformed = 5,
};

struct Gap {
    Generation generation = 0;
    uint8_t hop = 0;
    FrameNumber expected = 0;
    FrameNumber got = 0;
    GapReason reason = GapReason::kNumber;
    bool operator==(const Gap&) const = default;
};

enum class WorkerState : uint8_t { kLoading = 1, kReady = 2, kDraining = 3 };

struct RouteReport {
    Generation generation = 0;
    uint8_t hop = 0;
    FrameNumber accepted = 0;
    FrameNumber forwarded = 0;
    bool link_up = false;
    bool egress_empty = true;
    bool operator==(const RouteReport&) const = default;
};

struct WorkerHeartbeat {
    WorkerState state = WorkerState::kLoading;
    uint32_t loop_gap_us = 0;
    uint32_t frames_held = 0;
    Generation fenced_through = 0;
    std::vector<RouteReport> routes;
    bool operator==(const WorkerHeartbeat&) const = default;
};

struct Bye {
    std::string reason;
    bool operator==(const Bye&) const = default;
};

// ---- control: router to worker ----

struct Welcome {
    Incarnation worker = 0;  // whose HELLO this answers
    std::string router_name;
    uint32_t heartbeat_interval_ms = 0;
    uint32_t failure_threshold = 0;
    std::string result_endpoint;
    bool operator==(const Welcome&) const = default;
};

struct Reject {
    std::string code;
    std::string reason;
    bool retryable = false;
    bool operator==(const Reject&) const = default;
};

struct RouteHop {
    uint8_t hop = 0;
    uint8_t role = 0;           // one Role bit
    std::string next_endpoint;  // empty: the next hop is in the same process
    Incarnation next = 0;
    bool outputs_only = false;  // last stage: forward only the rows that want output
    bool operator==(const RouteHop&) const = default;
};

struct Route {
    Generation generation = 0;
    Generation fences_through = 0;
    uint32_t slots = 0;
    uint32_t blocks = 0;
    std::vector<RouteHop> hops;
    bool operator==(const Route&) const = default;
};

struct Fence {
    Generation through = 0;
    bool operator==(const Fence&) const = default;
};

struct RouterHeartbeat {
    uint64_t echo = 0;
    Generation fence_through = 0;
    std::vector<Generation> generations;
    bool operator==(const RouterHeartbeat&) const = default;
};

struct Unknown {
    bool operator==(const Unknown&) const = default;
};

using ControlBody = std::variant<Hello, Ready, Unreachable, Fenced, Gap, WorkerHeartbeat, Bye,
                                 Welcome, Reject, Route, Fence, RouterHeartbeat, Unknown>;

struct Control {
    Incarnation sender = 0;
    uint64_t sequence = 0;
    ControlBody body;
    bool operator==(const Control&) const = default;
};

// ---- client front: client to router ----

struct Message {
    std::string role;
    std::string content;
    bool operator==(const Message&) const = default;
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
    std::optional<uint64_t> seed;
    std::vector<std::string> stop;
    std::vector<uint32_t> stop_token_ids;
    bool echo = false;
    std::optional<uint32_t> logprobs;
    std::optional<uint32_t> prompt_logprobs;
    bool ignore_eos = false;
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
    std::vector<uint32_t> token_ids;
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
    bool operator==(const Ping&) const = default;
};

struct StatusQuery {
    bool operator==(const StatusQuery&) const = default;
};

using ClientBody = std::variant<Submit, Cancel, Resume, Ping, StatusQuery>;

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
    bool operator==(const Piece&) const = default;
};

struct PromptPiece {
    std::string request_id;
    uint32_t index = 0;
    std::vector<std::optional<TokenEntry>> entries;
    bool operator==(const PromptPiece&) const = default;
};

struct Done {
    std::string request_id;
    std::string finish_reason;
    std::variant<std::monostate, std::string, uint32_t> stop;
    uint32_t prompt_tokens = 0;
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
    bool operator==(const Failure&) const = default;
};

struct Pong {
    uint64_t nonce = 0;
    Incarnation router = 0;
    bool operator==(const Pong&) const = default;
};

struct WorkerStatus {
    std::string name;
    uint8_t roles = 0;
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;
    std::string state;
    std::string kernels;
    bool operator==(const WorkerStatus&) const = default;
};

struct StatusReply {
    std::string router;
    std::string model;
    std::string fingerprint;
    bool ready = false;
    std::vector<WorkerStatus> workers;
    uint32_t running = 0;
    uint32_t waiting = 0;
    bool operator==(const StatusReply&) const = default;
};

using RouterBody =
    std::variant<Accepted, Piece, PromptPiece, Done, Failure, Pong, StatusReply>;

// ---- data frames ----

enum FrameType : uint8_t { kFrameData = 1, kFrameResult = 2 };

struct FrameHeader {
    uint8_t type = kFrameData;
    Incarnation router = 0;
    Generation generation = 0;
    FrameNumber number = 0;
    uint8_t hop = 0;
    Incarnation destination = 0;
    uint32_t budget_ms = 0;
    bool operator==(const FrameHeader&) const = default;
};

struct HopTiming {
    uint32_t queue_us = 0;
    uint32_t busy_us = 0;
    bool operator==(const HopTiming&) const = default;
};

enum ItemFlags : uint8_t { kItemFirst = 1, kItemRefused = 2, kItemReplay = 4 };

struct Item {
    Slot slot = 0;
    Admission admission = 0;
    uint32_t position = 0;
    uint32_t rows = 0;
    uint8_t flags = 0;
    uint32_t table_index = 0;
    std::vector<BlockId> blocks;
    std::vector<uint32_t> outputs;  // rows within the item, ascending
    std::string sample;             // encoded Sample, opaque to stages; empty when outputs is
    bool operator==(const Item&) const = default;
};

enum class DType : uint8_t { kIds = 1, kF32 = 2 };

// A decoded data frame. `payload` points into the bytes it was decoded from.
struct DataFrame {
    FrameHeader header;
    std::vector<HopTiming> timings;  // one per hop passed
    std::vector<Item> items;
    DType dtype = DType::kF32;
    uint32_t rows = 0;
    uint32_t width = 0;
    std::span<const uint8_t> payload;  // rows x width x 4 bytes
};

struct Sample {
    uint32_t index = 0;
    uint64_t seed = 0;
    uint32_t choice = 0;
    float temperature = 0.0f;
    uint32_t top_k = 0;
    float top_p = 1.0f;
    float min_p = 0.0f;
    float typical_p = 1.0f;
    uint8_t logprobs = 0;  // 0 none, else K + 1
    std::optional<std::vector<std::optional<uint32_t>>> targets;  // as long as the item's outputs
    std::vector<uint32_t> masked;                                 // ext key 1
    bool operator==(const Sample&) const = default;
};

// ---- results ----

enum class ItemError : uint8_t { kNone = 0, kRefused = 1, kNonFinite = 2, kMalformed = 3 };

struct Output {
    uint32_t row = 0;
    uint8_t kind = 1;  // 1 sampled, 2 target
    uint32_t token = 0;
    float logprob = 0.0f;
    std::vector<TopLogprob> top;
    bool operator==(const Output&) const = default;
};

struct ResultItem {
    Slot slot = 0;
    Admission admission = 0;
    ItemError error = ItemError::kNone;
    std::vector<Output> outputs;
    bool operator==(const ResultItem&) const = default;
};

struct ResultFrame {
    FrameHeader header;
    std::vector<HopTiming> timings;
    std::vector<ResultItem> items;
};

}  // namespace chatloop::wire
