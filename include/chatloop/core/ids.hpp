// The identities of the bus (docs/protocol.md, names).
#pragma once

#include <cstdint>

namespace chatloop {

using Incarnation = uint64_t;  // random per process start; 0 is never one
using Generation = uint64_t;   // one counter per router incarnation; 0 is never installed
using FrameNumber = uint64_t;  // consecutive within a generation, from 1
using Admission = uint64_t;    // one per admission to a slot, per router; 0 is never one
using Slot = uint32_t;         // index of a running sequence in a share
using BlockId = uint32_t;      // KV block in a share
using SequenceId = uint64_t;   // one choice of a request, of its router; ascends with arrival

inline constexpr BlockId kNoBlock = UINT32_MAX;
inline constexpr uint32_t kBlockRows = 64;  // positions that one KV block holds

constexpr uint32_t blocks_for(uint64_t rows) {
    return static_cast<uint32_t>((rows + kBlockRows - 1) / kBlockRows);
}

}  // namespace chatloop
