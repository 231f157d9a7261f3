// Time as the actors see it: a monotonic microsecond count that is passed in, never read.
#pragma once

#include <cstdint>

namespace chatloop {

using TimeUs = int64_t;  // monotonic; only differences mean something

inline constexpr TimeUs kMillisecondUs = 1000;
inline constexpr TimeUs kSecondUs = 1'000'000;
inline constexpr TimeUs kNever = INT64_MAX;

}  // namespace chatloop
