// Who gives way (docs/scheduling.md, "KV blocks"). Pure functions over what runs on a route.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "chatloop/core/ids.hpp"

namespace chatloop {

struct RunningSequence {
    SequenceId id = 0;
    std::string_view client;
    int32_t priority = 0;
    Admission admission = 0;  // rises with every admission
};

// When blocks are short: the lowest priority, of it the latest. Null when only one runs, so the
// oldest of the highest priority always goes on.
std::optional<SequenceId> least_important(std::span<const RunningSequence> running);

// When places are short, as many as run now: null, or a sequence of a client that holds more than
// an even share of them, to make room for a client that holds less. Of the one with the most, the
// latest of its lowest priority, which is not above that of the one that waits.
std::optional<SequenceId> beyond_share(std::span<const RunningSequence> running,
                                       std::string_view waiting_client, int32_t waiting_priority);

}  // namespace chatloop
