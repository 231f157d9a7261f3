// Every choice of a simulated run, from one seed.
#pragma once

#include <cstdint>

#include "hash_model.hpp"

namespace chatloop::sim {

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() { return state_ = mix(state_, ++count_); }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>(next() % n); }
    uint32_t between(uint32_t low, uint32_t high) { return low + below(high - low + 1); }
    bool one_in(uint32_t n) { return below(n) == 0; }

private:
    uint64_t state_;
    uint64_t count_ = 0;
};

}  // namespace chatloop::sim
