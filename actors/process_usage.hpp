// What the process takes of the machine, read at most once a second however often it is asked.
#pragma once

#include <cstdint>

#include "chatloop/core/clock.hpp"

namespace chatloop::actors {

class ProcessUsage {
public:
    void update(TimeUs now);

    uint64_t cpu_us() const { return cpu_us_; }
    double cpu_percent() const { return cpu_percent_; }  // of one core, between the last two reads
    uint64_t memory_bytes() const { return memory_bytes_; }  // resident

private:
    TimeUs read_at_ = 0;
    uint64_t cpu_us_ = 0;
    double cpu_percent_ = 0;
    uint64_t memory_bytes_ = 0;
};

}  // namespace chatloop::actors
