// STATUS: the router's view of itself and its cluster, for people and monitoring (docs/protocol.md,
// "What is counted").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop::wire {

struct Counter {
    std::string name;
    uint64_t value = 0;
    bool operator==(const Counter&) const = default;
};

struct HistogramStatus {
    std::string name;
    std::vector<double> bounds;    // upper ones, ascending
    std::vector<uint64_t> counts;  // one more than bounds
    double sum = 0.0;
    bool operator==(const HistogramStatus&) const = default;
};

// What a worker has done in one of its roles, as RESULTs told it.
struct RoleStatus {
    uint8_t role = 0;      // one Role bit
    uint64_t frames = 0;
    uint64_t rows = 0;
    uint64_t busy_us = 0;  // computing
    uint64_t queue_us = 0; // frames waited in its queue, of all together
    uint64_t work_us = 0;  // its routes had frames on their way
    HistogramStatus step;  // seconds that it computed a frame
    bool operator==(const RoleStatus&) const = default;
};

struct WorkerStatus {
    std::string name;
    uint8_t roles = 0;
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;
    std::string state;
    std::string kernels;
    std::string kv_cache_dtype;  // empty for a sampler
    std::vector<Counter> counters;
    uint32_t frames_held = 0;   // queued or running, as its last heartbeat had it
    uint32_t loop_gap_us = 0;   // the longest pause of its loop before that heartbeat
    std::vector<RoleStatus> work;
    bool operator==(const WorkerStatus&) const = default;
};

struct HopStatus {
    std::string worker;
    uint64_t busy_us = 0;  // computing frames
    bool operator==(const HopStatus&) const = default;
};

struct RouteStatus {
    Generation generation = 0;
    bool up = false;
    std::vector<HopStatus> hops;  // stages, then the sampler
    uint32_t running = 0;         // sequences
    std::vector<Counter> counters;
    bool operator==(const RouteStatus&) const = default;
};

struct RequestStatus {
    std::string id;
    std::string state;  // text, waiting, prefill, decode, replay
    uint32_t prompt_tokens = 0;
    uint32_t completion_tokens = 0;
    uint64_t age_us = 0;
    Generation generation = 0;  // of its route; 0: none
    bool operator==(const RequestStatus&) const = default;
};

// Something that an operator wants to see as it happens: a worker came or went, a route did.
struct EventStatus {
    uint64_t number = 0;  // consecutive
    uint64_t age_us = 0;
    bool warning = false;
    std::string text;
    bool operator==(const EventStatus&) const = default;
};

struct StatusReply {
    std::string router;
    std::string model;
    std::string fingerprint;
    bool ready = false;
    std::string no_route;  // why not; empty when ready
    std::vector<WorkerStatus> workers;
    std::vector<RouteStatus> routes;
    uint32_t running = 0;
    uint32_t waiting = 0;
    uint64_t backlog_bytes = 0;     // that wait for clients which do not read
    std::vector<Counter> counters;  // of the router
    std::vector<Counter> errors;    // ERROR messages, by code
    std::vector<HistogramStatus> histograms;
    uint64_t uptime_us = 0;
    std::vector<RequestStatus> requests;  // the oldest, kStatusRequestsMax at most
    std::vector<EventStatus> events;      // the latest, kStatusEventsMax at most
    bool operator==(const StatusReply&) const = default;
};

}  // namespace chatloop::wire
