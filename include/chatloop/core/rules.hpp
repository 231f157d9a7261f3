// What protects an answer, as switches that the simulator can turn off to show that its seeds find
// a build without them (docs/simulator.md has the table). In every other build they hold, at no
// cost.
#pragma once

#include <cstdint>

namespace chatloop {

enum class Rule : uint8_t {
    // Routes.
    kOwnLink,          // a route is up when the router's link to its first stage is
    kReadyLink,        // READY waits for the links to the next hops
    kReadyWait,        // a route is up when every worker of it said READY
    kReadyGeneration,  // READY of another generation is ignored
    kLateRoute,        // a ROUTE of a fenced generation is ignored

    // Fences and credit.
    kFenceQueue,   // a fenced worker drops what waits
    kFenceUnit,    // and abandons what it computes
    kFenceAccept,  // and takes no later frame of it
    kFenceRepeat,  // heartbeats repeat a FENCE until it is answered
    kFenceCredit,  // FENCED returns credit
    kCreditOnce,   // and the same credit no second time

    // Frames.
    kFrameOrder,         // a worker accepts a generation's frames without a gap
    kFrameOnce,          // and none twice
    kFrameRouter,        // of this process of the router
    kFrameDestination,   // and for this process of the worker
    kArrivalOrder,       // frames run in the order in which they came
    kResultAlways,       // a frame without outputs has a RESULT too
    kResultOrder,        // the router takes RESULTs without a gap
    kResultRouter,       // and of its own frames only
    kRefused,            // a refused item begins again at row 0
    kInFlightBlocks,     // slots and blocks stay with the frames that write them
    kItemRule,           // a stage refuses what does not continue its slot
    kPrefixRows,         // or begins with blocks that are not full
    kPreemptIdle,        // nothing in flight is preempted

    // Faults.
    kMissing,      // a frame that left one hop and does not reach the next, by heartbeats
    kOverdue,      // a RESULT that does not come
    kTwoBeats,     // a frame is missing by two heartbeats in a row
    kGapReport,    // a frame that was not accepted takes the route down
    kLinkDown,     // as does a link that went down
    kRollBack,     // what was in flight on a route that went down is sent again
    kReplaced,     // a stage is replaced when its incarnation is
    kForgotten,    // a worker that says HELLO again holds nothing
    kOwnPause,     // after a pause of its own a router judges nobody yet
    kPoison,       // who was with a dying worker goes on apart, and at last fails
    kProbation,    // workers and edges that failed are avoided
    kReplacedWorker,  // a process that was replaced is not taken again
    kReplacedRouter,  // nor a router's by a worker

    // The prefix cache.
    kPrefixIds,       // a hit has the same ids
    kPrefixResult,    // blocks can be found when their RESULT came
    kPrefixLast,      // the last row of a prompt is computed
    kPrefixLogprobs,  // and every row whose log-probability is asked

    // Clients and routers.
    kFingerprint,  // an answer goes on under its fingerprint only
    kStopFirst,    // a resumed answer that had ended is not continued
    kShares,       // routers have blocks of their own on a worker
};

#ifdef CHATLOOP_RULE_SWITCHES
bool holds(Rule rule);  // the simulator's
#else
constexpr bool holds(Rule) { return true; }
#endif

}  // namespace chatloop
