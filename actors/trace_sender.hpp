// Sends traces to python -m chatloop.telemetry. Never waits: while it is not there or does not keep
// up, traces are dropped and counted.
#pragma once

#include <cstdint>
#include <string>

#include "chatloop/bus/context.hpp"
#include "chatloop/bus/socket.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::actors {

class TraceSender {
public:
    // `exporter` is the endpoint that it listens at. Ends the process if that is none.
    TraceSender(Context& context, const std::string& actor, const std::string& exporter,
                wire::TraceSource source);

    void send(const wire::Trace& trace, TimeUs arrived_at);
    uint64_t sent() const { return sent_; }
    uint64_t dropped() const { return dropped_; }

private:
    Socket socket_;
    wire::TraceSource source_;
    uint64_t sent_ = 0;
    uint64_t dropped_ = 0;
};

}  // namespace chatloop::actors
