// What an actor's process needs of the operating system: the clock, the signals, its CPUs.
#pragma once

#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/result.hpp"

namespace chatloop {

TimeUs monotonic_now();

// The CPUs that this process may run on, ascending.
std::vector<int> allowed_cpus();
// From now on this thread, and threads that it makes, run there only. kUnsupported when refused.
Status pin_to_cpus(const std::vector<int>& cpus);

// SIGTERM and SIGINT as a readable descriptor. Made before anything that starts threads, so that
// they are blocked everywhere; SIGPIPE is ignored from then on.
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
