// What data frames and RESULTs share: the fixed-width header, the ext map behind it, the body CRC.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "chatloop/wire/codec.hpp"
#include "cursor.hpp"
#include "writer.hpp"

namespace chatloop::wire {

// Writes kHeaderBytes, CRC included.
void store_header(uint8_t* bytes, const FrameHeader& header);

void write_timings(Writer& writer, std::span<const HopTiming> timings);
void read_timings(ByteView element, Problem& problem, std::vector<HopTiming>& timings);

// Steps over the elements that follow the header and have no fixed offsets.
class Tail {
public:
    explicit Tail(ByteView frame) : frame_(frame) {}

    size_t offset() const { return offset_; }
    bool broken() const { return broken_; }
    bool at_end() const { return !broken_ && offset_ == frame_.size(); }
    // The bytes of the next element; empty when there is none, which breaks the tail for good.
    ByteView next();

private:
    ByteView frame_;
    size_t offset_ = kHeaderBytes;
    bool broken_ = false;
};

// The value of a CRC element in its fixed encoding.
std::optional<uint32_t> load_crc(ByteView element);

FrameError malformed_frame(std::string message);

}  // namespace chatloop::wire
