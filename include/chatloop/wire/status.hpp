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

struct WorkerStatus {
    std::string name;
    uint8_t roles = 0;
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;
    std::string state;
    std::string kernels;
    std::string kv_cache_dtype;  // empty for a sampler
    std::vector<Counter> counters;
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

struct HistogramStatus {
    std::string name;
    std::vector<double> bounds;    // upper ones, ascending
    std::vector<uint64_t> counts;  // one more than bounds
    double sum = 0.0;
    bool operator==(const HistogramStatus&) const = default;
};

struct StatusReply {
    std::string router;
    std::string model;
    std::string fingerprint;
    bool ready = false;
    std::vector<WorkerStatus> workers;
    std::vector<RouteStatus> routes;
    uint32_t running = 0;
    uint32_t waiting = 0;
    uint64_t backlog_bytes = 0;     // that wait for clients which do not read
    std::vector<Counter> counters;  // of the router
    std::vector<Counter> errors;    // ERROR messages, by code
    std::vector<HistogramStatus> histograms;
    bool operator==(const StatusReply&) const = default;
};

}  // namespace chatloop::wire
