// splitmix64 (Steele, Lea, Flood 2014): seeds and ids that need no cryptography.
#pragma once

#include <cstdint>

namespace chatloop {

// The next number; `state` moves on.
uint64_t splitmix64(uint64_t& state);

}  // namespace chatloop
