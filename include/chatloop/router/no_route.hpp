// Why there is no route: what is missing, said to people. Pure functions of the cluster's table.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "chatloop/core/clock.hpp"

namespace chatloop {

// A worker, as far as it matters here.
struct RouteCandidate {
    std::string name;
    uint8_t roles = 0;         // Role bits
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;
    std::string hindrance;     // why it can be on no route now: "is loading"; empty: it can
};

// A worker that the router does not take.
struct RefusedWorker {
    std::string name;
    std::string reason;
};

// What a chain over layers 0..layers - 1 and a sampler lacks, with the workers that would have it
// but for a hindrance, and those that were refused: "layers 15-29 are missing; no sampler is
// there; stage1 was refused: its numerics fingerprint differs". Empty when nothing is missing.
std::string what_is_missing(uint32_t layers, std::span<const RouteCandidate> workers,
                            std::span<const RefusedWorker> refused);

// When to put it into the log: after some seconds without a route, and when it has changed since,
// never more often than that.
class NoRouteNotice {
public:
    // `why` there is no route at `now`, empty when there is one. Whether it is to be told.
    bool is_due(const std::string& why, TimeUs now);

private:
    std::string told_;
    TimeUs due_at_ = kNever;  // kNever: there was a route, or nobody has asked yet
};

}  // namespace chatloop
