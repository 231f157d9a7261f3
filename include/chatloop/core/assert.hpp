// Assertions for bugs, on in every build: a process that computed something impossible must not go
// on; its peers recover from a crash, not from a wrong answer. Input is never asserted
// (result.hpp).
#pragma once

namespace chatloop {

[[noreturn]] void assert_failed(const char* expression, const char* file, int line);

}  // namespace chatloop

#define CL_ASSERT(expression) \
    (static_cast<bool>(expression) ? void(0) \
                                   : ::chatloop::assert_failed(#expression, __FILE__, __LINE__))
