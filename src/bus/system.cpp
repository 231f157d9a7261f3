#include "chatloop/bus/system.hpp"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

#include "chatloop/core/assert.hpp"

namespace chatloop {

TimeUs monotonic_now() {
    timespec time;
    CL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return TimeUs{time.tv_sec} * kSecondUs + time.tv_nsec / 1000;
}

SignalFd::SignalFd() {
    CL_ASSERT(std::signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    CL_ASSERT(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
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
