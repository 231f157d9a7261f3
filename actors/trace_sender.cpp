#include "trace_sender.hpp"

#include <chrono>

#include "chatloop/bus/system.hpp"
#include "common.hpp"

namespace chatloop::actors {

// As for clients: at most kFrontSendMax messages wait.
TraceSender::TraceSender(Context& context, const std::string& actor, const std::string& exporter,
                         wire::TraceSource source)
    : socket_(context, SocketKind::kPush, SocketUse::kFront), source_(std::move(source)) {
    if (const Status connected = socket_.connect(exporter); !connected)
        die(actor, connected.error());
}

void TraceSender::send(const wire::Trace& trace, TimeUs arrived_at) {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    const int64_t unix_us =
        std::chrono::duration_cast<std::chrono::microseconds>(since_epoch).count();
    const TimeUs age_us = monotonic_now() - arrived_at;
    Message message(wire::encode_export(source_, unix_us - age_us, trace));
    if (socket_.send(message) == Io::kOk) ++sent_;
    else ++dropped_;
}

}  // namespace chatloop::actors
