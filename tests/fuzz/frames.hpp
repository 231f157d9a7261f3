// Frames with right checksums, so that damage gets past them.
#pragma once

#include "chatloop/wire/codec.hpp"
#include "chatloop/wire/crc.hpp"
#include "wire/header.hpp"
#include "wire/writer.hpp"

namespace chatloop::fuzz {

// Sets the header's CRC and, where the layout can be found, the body's.
inline void reseal(wire::Bytes& frame) {
    using namespace wire;
    constexpr size_t kCrcAt = kHeaderBytes - kFixedU32Bytes;
    if (frame.size() < kHeaderBytes) return;
    store_u32(frame.data() + kCrcAt, crc32c({frame.data(), kCrcAt}));
    const bool is_result = frame[0] == 0x9c;
    Tail tail(frame);
    tail.next();  // ext
    const size_t described_at = tail.offset();
    for (int element = 0; element < (is_result ? 1 : 3); ++element) tail.next();
    const size_t described_end = tail.offset();
    const ByteView crc = tail.next();
    const ByteView payload = is_result ? ByteView() : tail.next();
    if (tail.broken() || crc.size() != kFixedU32Bytes) return;
    const ByteView described(frame.data() + described_at, described_end - described_at);
    const uint32_t value = crc32c(payload, crc32c(described));
    store_u32(frame.data() + (crc.data() - frame.data()), value);
}

}  // namespace chatloop::fuzz
