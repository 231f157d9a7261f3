// Control: how workers join and how routes are made (docs/protocol.md, "Control").
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop::wire {

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
    std::string kv_cache_dtype;  // "f16", "int8"; empty for a sampler
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

// What a worker has executed and dropped since it started.
struct WorkerCounters {
    uint64_t frames_executed = 0;
    uint64_t frames_fenced = 0;       // of a fenced generation: late, queued or half done
    uint64_t frames_misdirected = 0;  // for another incarnation, or of an unknown router
    uint64_t frames_duplicate = 0;    // number not above the last
    uint64_t frames_gap = 0;          // number too high, bad body, unknown generation
    uint64_t headers_bad = 0;         // bytes that are no frame's header
    uint64_t control_bad = 0;         // undecodable, of a replaced router, or for another role
    uint64_t messages_malformed = 0;  // of a wrong number of parts
    uint64_t sends_blocked = 0;       // frames that met a full queue
    uint64_t cpu_ms = 0;              // that the process has taken
    uint64_t memory_bytes = 0;        // resident, now
    bool operator==(const WorkerCounters&) const = default;
};

struct WorkerCounter {
    std::string_view name;
    uint64_t WorkerCounters::*value;
};

// In the order of HEARTBEAT; the names are STATUS's.
inline constexpr std::array<WorkerCounter, 11> kWorkerCounters = {{
    {"frames_executed", &WorkerCounters::frames_executed},
    {"frames_fenced", &WorkerCounters::frames_fenced},
    {"frames_misdirected", &WorkerCounters::frames_misdirected},
    {"frames_duplicate", &WorkerCounters::frames_duplicate},
    {"frames_gap", &WorkerCounters::frames_gap},
    {"headers_bad", &WorkerCounters::headers_bad},
    {"control_bad", &WorkerCounters::control_bad},
    {"messages_malformed", &WorkerCounters::messages_malformed},
    {"sends_blocked", &WorkerCounters::sends_blocked},
    {"cpu_ms", &WorkerCounters::cpu_ms},
    {"memory_bytes", &WorkerCounters::memory_bytes},
}};

struct WorkerHeartbeat {
    WorkerState state = WorkerState::kLoading;
    uint32_t loop_gap_us = 0;
    uint32_t frames_held = 0;
    Generation fenced_through = 0;
    std::vector<RouteReport> routes;
    WorkerCounters counters;
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

}  // namespace chatloop::wire
