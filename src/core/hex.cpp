#include "chatloop/core/hex.hpp"

#include <cinttypes>
#include <cstdio>

namespace chatloop {

std::string hex16(uint64_t value) {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016" PRIx64, value);
    return digits;
}

}  // namespace chatloop
