// Throughput of single instructions: independent copies of one, in registers, as fast as they go.
// Inline assembly needs no target flags, so one binary holds all of them; `instructions` names only
// those that this CPU has.
#pragma once

#include <cstdint>
#include <vector>

namespace bench {

struct Instruction {
    const char* name;
    int32_t products;  // multiplications in one, 0 where it does none
    void (*run)(uint64_t rounds, const void* cell);  // kPerRound of them per round
};

constexpr uint64_t kPerRound = 48;

std::vector<Instruction> instructions();
double instructions_per_s(const Instruction& instruction);
double tsc_hz();
// From a chain of 64-bit multiplications, 3 cycles each on every x86-64 of the last ten years.
double core_clock_hz();

}  // namespace bench
