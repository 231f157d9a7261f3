// One of every message, with a value other than the default in each field.
#pragma once

#include <string>
#include <vector>

#include "chatloop/wire/codec.hpp"

namespace chatloop::wire::test {

std::vector<Control> control_examples();
std::vector<ClientBody> client_examples();
std::vector<RouterBody> router_examples();

Sample sample_example();  // with two targets
std::vector<Item> item_examples();  // 5 + 1 rows, of which 2 want output

FrameHeader header_example(uint8_t type);
// The example items with their 6 rows of `width` floats, sealed.
Bytes frame_example(uint32_t width = 4);
ResultFrame result_example();

// CRC-32C bit by bit, from its definition.
uint32_t slow_crc(ByteView bytes, uint32_t crc = 0);

}  // namespace chatloop::wire::test
