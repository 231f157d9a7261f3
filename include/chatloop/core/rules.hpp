// The rules of docs/protocol.md that the simulator can turn off, one at a time, to show that its
// seeds find a build without them. In every other build they hold, at no cost.
#pragma once

#include <cstdint>

namespace chatloop {

enum class Rule : uint8_t {
    kFence,        // a fenced worker purges, abandons and refuses what is fenced
    kFenceCredit,  // FENCED returns credit
    kFenceRepeat,  // heartbeats repeat a FENCE until it is answered
    kFrameOrder,   // a worker accepts a generation's frames by number, without a gap
    kMissing,      // a frame that left one hop and does not reach the next, or a late RESULT
    kRollBack,     // what was in flight on a route that went down is sent again
};

#ifdef CHATLOOP_RULE_SWITCHES
bool holds(Rule rule);  // the simulator's
#else
constexpr bool holds(Rule) { return true; }
#endif

}  // namespace chatloop
