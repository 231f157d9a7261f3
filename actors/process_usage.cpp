#include "process_usage.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

namespace chatloop::actors {

namespace {

uint64_t process_cpu_us() {
    rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
    const auto us = [](const timeval& t) {
        return static_cast<uint64_t>(t.tv_sec) * kSecondUs + static_cast<uint64_t>(t.tv_usec);
    };
    return us(usage.ru_utime) + us(usage.ru_stime);
}

uint64_t resident_bytes() {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/self/statm", "re"),
                                                     &std::fclose);
    unsigned long long size = 0, resident = 0;
    if (file == nullptr || std::fscanf(file.get(), "%llu %llu", &size, &resident) != 2) return 0;
    return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

void ProcessUsage::update(TimeUs now) {
    if (read_at_ != 0 && now - read_at_ < kSecondUs) return;
    const uint64_t cpu_us = process_cpu_us();
    if (read_at_ != 0)
        cpu_percent_ = 100.0 * static_cast<double>(cpu_us - cpu_us_) /
                       static_cast<double>(now - read_at_);
    cpu_us_ = cpu_us;
    memory_bytes_ = resident_bytes();
    read_at_ = now;
}

}  // namespace chatloop::actors
