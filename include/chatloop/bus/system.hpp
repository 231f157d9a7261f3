// What an actor's process needs of the operating system: the clock, the signals, its CPUs.
#pragma once

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/result.hpp"

namespace chatloop {

TimeUs monotonic_now();

// The CPUs that this process may run on, ascending.
std::vector<int> allowed_cpus();
// From now on this thread, and threads that it makes, run there only. kUnsupported when refused.
Status pin_to_cpus(const std::vector<int>& cpus);

// The CPUs of a NUMA node; none for one that has memory only. kInvalidRequest: there is no such
// node. `root` is where sys is.
Result<std::vector<int>> numa_cpus(int node, const std::filesystem::path& root = "/");
// From now on this thread, and threads that it makes, take new memory from that node only.
// kUnsupported when refused.
Status bind_memory(int node);

// Whether a socket of this machine can be bound to the address, IPv4 or IPv6 in digits.
bool is_own_address(const std::string& host);

// What the kernel sends when the parent dies. Not SIGTERM: for a parent with threads that is killed
// it comes once for each of them, and a second SIGTERM is an order to end at once.
inline constexpr int kParentDied = SIGUSR1;

// The signals wait until a SignalFd takes them: for what a process does before it has one.
void block_signals();

// Every connection takes a descriptor: as many as the hard limit gives, up to kDescriptorsWanted.
void raise_descriptor_limit();

// SIGTERM, SIGINT, SIGHUP and kParentDied as a readable descriptor. Made before anything that
// starts threads, so that they are blocked everywhere; SIGPIPE is ignored from then on.
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
