// CRC-32C (Castagnoli, as in iSCSI), by ISA-L.
#pragma once

#include <cstdint>

#include "chatloop/wire/codec.hpp"

namespace chatloop::wire {

inline constexpr uint32_t kCrcStart = 0;

// The CRC of everything that `crc` covers, followed by `bytes`.
uint32_t crc32c(ByteView bytes, uint32_t crc = kCrcStart);

}  // namespace chatloop::wire
