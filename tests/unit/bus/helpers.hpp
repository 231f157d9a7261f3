// Real sockets and short waits for the tests of the bus.
#pragma once

#include <unistd.h>

#include <atomic>
#include <string>

#include "chatloop/bus/message.hpp"
#include "chatloop/bus/socket.hpp"
#include "chatloop/bus/system.hpp"

namespace chatloop::test {

inline std::string fresh_ipc_endpoint() {
    static int count = 0;
    return "ipc://@chatloop-bus-test-" + std::to_string(getpid()) + "-" + std::to_string(++count);
}

// Calls `step` every half millisecond until it is true, for at most 5 s.
template <class Step>
bool eventually(Step step) {
    const TimeUs end = monotonic_now() + 5 * kSecondUs;
    while (monotonic_now() < end) {
        if (step()) return true;
        usleep(500);
    }
    return false;
}

inline Message message_of(const std::string& text) {
    return Message(std::vector<uint8_t>(text.begin(), text.end()));
}

inline std::string text_of(const Message& message) {
    return {reinterpret_cast<const char*>(message.data()), message.size()};
}

inline bool receive_soon(Socket& socket, Envelope& envelope) {
    return eventually([&] { return socket.receive(envelope) == Io::kOk; });
}

inline bool send_soon(Socket& socket, const std::string& text) {
    Message message = message_of(text);
    return eventually([&] { return socket.send(message) == Io::kOk; });
}

}  // namespace chatloop::test
