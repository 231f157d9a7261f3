// What one role of a worker has done since the process started, for its /metrics page.
#pragma once

#include <cstdint>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/histogram.hpp"

namespace chatloop {

struct RoleMetrics {
    Histogram forward_s{kStepBoundsS};  // computing one frame
    Histogram queue_s{kStepBoundsS};    // from the acceptance of a frame to its first unit
    Histogram items{kRowsBounds};       // sequences in a frame
    uint64_t rows = 0;
    TimeUs busy_us = 0;                 // in units, also of frames that were abandoned
};

}  // namespace chatloop
