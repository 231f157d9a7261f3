#include "chatloop/wire/crc.hpp"

#include <isa-l/crc.h>

#include <climits>

#include "chatloop/core/assert.hpp"

namespace chatloop::wire {

uint32_t crc32c(ByteView bytes, uint32_t crc) {
    CL_ASSERT(bytes.size() <= INT_MAX);
    // ISA-L leaves the inversion at both ends to its caller, and only reads through the pointer.
    auto* data = const_cast<unsigned char*>(bytes.data());
    return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~crc);
}

}  // namespace chatloop::wire
