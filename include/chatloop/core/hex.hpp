// 64-bit identities as text: fingerprints to clients, incarnations in routing ids.
#pragma once

#include <cstdint>
#include <string>

namespace chatloop {

// 16 lowercase hex digits.
std::string hex16(uint64_t value);

}  // namespace chatloop
