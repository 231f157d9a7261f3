#include "chatloop/bus/system.hpp"

#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <ctime>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

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
