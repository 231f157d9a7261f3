// Which running sequence gives way (docs/scheduling.md, "KV blocks"). Neither rule ever names the
// oldest sequence of the highest priority, so somebody always finishes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "chatloop/core/ids.hpp"
#include "chatloop/router/admission_queue.hpp"

namespace chatloop {

struct Running {
    SequenceId id = 0;
    std::string_view client;
    int32_t priority = 0;
    Admission admission = 0;  // ascends
};

// Blocks are short: the lowest priority, the latest of it. None when only one runs.
std::optional<SequenceId> least_important(std::span<const Running> running);

// A place for `claimant`, of a client with fewer sequences than its share, is to be had from
// `victim`, of a client with more.
struct Claim {
    SequenceId claimant = 0;
    SequenceId victim = 0;
};

// All places are taken. A client's share is places / clients that run or wait, rounded down, but at
// least one. `waiting` has the first sequence of each client in the order of their turns; the first
// that may claim does. The victim is the least important one of the client with the most, and never
// of a higher priority than the claimant. The answer stays until a sequence comes or goes. A client
// that gave is not below its share then, nor the one that got above it: no place goes back and
// forth.
std::optional<Claim> beyond_share(std::span<const Running> running, uint32_t places,
                                  std::span<const Waiting* const> waiting);

}  // namespace chatloop
