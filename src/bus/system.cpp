#include "chatloop/bus/system.hpp"

#include <arpa/inet.h>
#include <linux/mempolicy.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <string>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/cpu_list.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

namespace {

struct FreeCpuSet {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, FreeCpuSet>;

const size_t kCpuSetBytes = CPU_ALLOC_SIZE(kCpusMax);

CpuSet empty_cpu_set() {
    CpuSet set(CPU_ALLOC(kCpusMax));
    CL_ASSERT(set != nullptr);
    CPU_ZERO_S(kCpuSetBytes, set.get());
    return set;
}

}  // namespace

std::vector<int> allowed_cpus() {
    const CpuSet set = empty_cpu_set();
    std::vector<int> cpus;
    if (sched_getaffinity(0, kCpuSetBytes, set.get()) != 0) return cpus;
    for (int cpu = 0; cpu < kCpusMax; ++cpu)
        if (CPU_ISSET_S(static_cast<size_t>(cpu), kCpuSetBytes, set.get())) cpus.push_back(cpu);
    return cpus;
}

Status pin_to_cpus(const std::vector<int>& cpus) {
    const CpuSet set = empty_cpu_set();
    for (const int cpu : cpus) CPU_SET_S(static_cast<size_t>(cpu), kCpuSetBytes, set.get());
    if (sched_setaffinity(0, kCpuSetBytes, set.get()) == 0) return Ok{};
    return Error{ErrorCode::kUnsupported,
                 std::string("the process cannot be bound to its CPUs: ") + std::strerror(errno)};
}

namespace {

// A list as 0-3,6 in a file of sysfs; empty where there is none.
std::vector<int> listed_in(const std::filesystem::path& path) {
    std::ifstream in(path);
    std::string text;
    std::getline(in, text);
    const Result<std::vector<int>> list = parse_cpu_list(text);
    return list ? *list : std::vector<int>();
}

}  // namespace

Result<std::vector<int>> numa_cpus(int node, const std::filesystem::path& root) {
    const std::filesystem::path nodes = root / "sys/devices/system/node";
    const std::vector<int> online = listed_in(nodes / "online");
    if (std::binary_search(online.begin(), online.end(), node))
        return listed_in(nodes / ("node" + std::to_string(node)) / "cpulist");
    return Error{ErrorCode::kInvalidRequest,
                 "there is no NUMA node " + std::to_string(node) + " on this machine; it has " +
                     (online.empty() ? "none" : cpu_list_text(online))};
}

Status bind_memory(int node) {
    CL_ASSERT(node >= 0 && node < kNumaNodesMax);
    constexpr size_t kWordBits = 8 * sizeof(unsigned long);
    unsigned long mask[kNumaNodesMax / kWordBits] = {};
    mask[static_cast<size_t>(node) / kWordBits] = 1ul << (static_cast<size_t>(node) % kWordBits);
    // The kernel takes the count of bits to be one larger than it is.
    if (::syscall(SYS_set_mempolicy, MPOL_BIND, mask, kNumaNodesMax + 1) == 0) return Ok{};
    const int error = errno;
    return Error{ErrorCode::kUnsupported,
                 "memory cannot be bound to NUMA node " + std::to_string(node) + ": " +
                     std::strerror(error) +
                     (error == EPERM ? "; a container needs the capability SYS_NICE for it" : "")};
}

// Asked of the kernel by binding any port there for a moment: 127.0.0.2 is in no list of
// addresses, and yet it can be bound.
bool is_own_address(const std::string& host) {
    sockaddr_storage address{};
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
    socklen_t size = sizeof *v4;
    if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
    } else if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        size = sizeof *v6;
    } else {
        return false;
    }
    const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    const bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0;
    ::close(fd);
    return bound;
}

TimeUs monotonic_now() {
    timespec time;
    CL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return TimeUs{time.tv_sec} * kSecondUs + time.tv_nsec / 1000;
}

namespace {

sigset_t handled_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, kParentDied);
    return set;
}

}  // namespace

void block_signals() {
    const sigset_t set = handled_signals();
    CL_ASSERT(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
}

void raise_descriptor_limit() {
    rlimit limit;
    CL_ASSERT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = std::max(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, kDescriptorsWanted));
    CL_ASSERT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

SignalFd::SignalFd() {
    CL_ASSERT(std::signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    block_signals();
    const sigset_t set = handled_signals();
    fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    CL_ASSERT(fd_ >= 0);
}

SignalFd::~SignalFd() {
    ::close(fd_);
}

int SignalFd::take() {
    signalfd_siginfo info;
    if (::read(fd_, &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return 0;
    return static_cast<int>(info.ssi_signo);
}

}  // namespace chatloop
