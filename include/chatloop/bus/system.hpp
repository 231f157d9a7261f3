// What an actor's process needs of the operating system: the clock and the signals.
#pragma once

#include <csignal>

#include "chatloop/core/clock.hpp"

namespace chatloop {

TimeUs monotonic_now();

// What the kernel sends when the parent dies. Not SIGTERM: for a parent with threads that is killed
// it comes once for each of them, and a second SIGTERM is an order to end at once.
inline constexpr int kParentDied = SIGUSR1;

// The signals wait until a SignalFd takes them: for what a process does before it has one.
void block_signals();

// Every connection takes a descriptor: as many as the hard limit gives, up to kDescriptorsWanted.
void raise_descriptor_limit();

// SIGTERM, SIGINT and kParentDied as a readable descriptor. Made before anything that starts
// threads, so that they are blocked everywhere; SIGPIPE is ignored from then on.
class SignalFd {
public:
    SignalFd();
    ~SignalFd();
    SignalFd(const SignalFd&) = delete;
    SignalFd& operator=(const SignalFd&) = delete;

    int fd() const { return fd_; }
    // The next signal that came, or 0.
    int take();

private:
    int fd_;
};

}  // namespace chatloop
