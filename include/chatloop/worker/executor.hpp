// What a role does with the frames that the worker has accepted: StageWorker runs layers, Sampler
// answers. The worker (worker.hpp) owns everything around it: routes, fences, order, heartbeats.
#pragma once

#include <cstdint>
#include <memory>

#include "chatloop/bus/message.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop {

// A frame between its acceptance and its successor's departure.
struct FrameInHand {
    Message bytes;           // what `frame.payload` points into
    wire::DataFrame frame;
    wire::RouteHop hop;      // this process's place on the frame's route
    uint64_t arrival = 0;    // order of arrival in this process
    TimeUs accepted_at = 0;
    TimeUs started_at = 0;
    TimeUs busy_us = 0;
};
using FramePtr = std::unique_ptr<FrameInHand>;

class FrameExecutor {
public:
    virtual ~FrameExecutor() = default;

    // `share` is the index of the router whose frame it is. The frame stays valid until finish or
    // abandon.
    virtual void begin(size_t share, FrameInHand& in_hand) = 0;
    // One bounded unit of work. True when the frame is finished.
    virtual bool run_unit() = 0;
    // The message for the next hop, with `header` and `timings` as given, in place of what `bytes`
    // held.
    virtual void finish(const wire::FrameHeader& header,
                        std::span<const wire::HopTiming> timings, wire::Bytes& bytes) = 0;
    virtual void abandon() = 0;
    // The router's state is gone: its slots are empty.
    virtual void forget(size_t share) = 0;
};

}  // namespace chatloop
