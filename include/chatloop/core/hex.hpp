// 64-bit identities as text: fingerprints to clients, incarnations in routing ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace chatloop {

// 16 lowercase hex digits.
std::string hex16(uint64_t value);

// Nothing but lowercase hex digits; also of no text at all.
bool is_hex(std::string_view text);

}  // namespace chatloop
