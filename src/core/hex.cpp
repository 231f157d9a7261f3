#include "chatloop/core/hex.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace chatloop {

std::string hex16(uint64_t value) {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016" PRIx64, value);
    return digits;
}

bool is_hex(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    });
}

}  // namespace chatloop
