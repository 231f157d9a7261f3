// A fuzz target: what it does with any bytes, and the inputs that it starts from. Each target is
// built twice: with libFuzzer (scripts/fuzz.sh), and with replay.cpp as a test of every run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace chatloop::fuzz {

using Bytes = std::vector<uint8_t>;

inline Bytes bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// Inputs of good will, made by the encoders of the project and its tests.
std::vector<Bytes> seeds();

}  // namespace chatloop::fuzz

// Returns 0; a broken promise ends the process (CL_ASSERT, a sanitizer).
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
