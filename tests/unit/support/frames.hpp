// Frames as an executor gets them: encoded, decoded again, with the bytes that the payload points
// into.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "chatloop/worker/executor.hpp"

namespace chatloop::test {

// `payload` holds rows x width values of 4 bytes: token ids, or the bits of floats.
inline FrameInHand frame_in_hand(const std::vector<wire::Item>& items, wire::DType dtype,
                                 uint32_t width, const std::vector<uint32_t>& payload,
                                 Generation generation = 1, FrameNumber number = 1) {
    wire::FrameHeader header;
    header.router = 1;
    header.generation = generation;
    header.number = number;
    header.destination = 2;
    const auto rows = static_cast<uint32_t>(payload.size() / width);
    size_t at = 0;
    wire::Bytes bytes = wire::encode_frame(header, {}, items, dtype, rows, width, &at);
    std::copy_n(reinterpret_cast<const uint8_t*>(payload.data()),
                payload.size() * sizeof(uint32_t), bytes.data() + at);
    wire::seal_frame(bytes);
    FrameInHand in_hand;
    in_hand.bytes = Message(std::move(bytes));
    auto decoded = wire::decode_frame(header, in_hand.bytes.bytes());
    // What decode refuses never gets here.
    REQUIRE(std::holds_alternative<wire::DataFrame>(decoded));
    in_hand.frame = std::get<wire::DataFrame>(std::move(decoded));
    return in_hand;
}

// Runs the frame to its end and gives the message for the next hop.
inline wire::Bytes run_frame(FrameExecutor& executor, FrameInHand& in_hand, uint8_t type,
                             size_t share = 0) {
    executor.begin(share, in_hand);
    for (int unit = 0; !executor.run_unit(); ++unit) REQUIRE(unit < 10'000);
    wire::FrameHeader header = in_hand.frame.header;
    header.type = type;
    header.hop = static_cast<uint8_t>(header.hop + 1);
    const std::vector<wire::HopTiming> timings{{1, 2}};
    wire::Bytes bytes;
    executor.finish(header, timings, bytes);
    return bytes;
}

}  // namespace chatloop::test
