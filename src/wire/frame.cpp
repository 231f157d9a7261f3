// Data frames (docs/protocol.md, Data frame).
#include <algorithm>
#include <bitset>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/wire/crc.hpp"
#include "header.hpp"

namespace chatloop::wire {
namespace {

constexpr uint8_t kAllFlags = kItemFirst | kItemRefused | kItemReplay;
constexpr uint32_t kPositionsMax = kSequenceBlocksMax * kBlockRows;
constexpr size_t kValueBytes = 4;  // of a token id or an f32

struct Layout {
    ByteView ext;
    ByteView items;
    ByteView dtype;
    ByteView shape;
    ByteView described;  // items, dtype and shape: what the body CRC covers beside the payload
    ByteView crc;
    ByteView payload;  // the element, with its bin header
};

std::optional<Layout> find_layout(ByteView frame) {
    Tail tail(frame);
    Layout layout;
    layout.ext = tail.next();
    const size_t described_at = tail.offset();
    layout.items = tail.next();
    layout.dtype = tail.next();
    layout.shape = tail.next();
    layout.described = frame.subspan(described_at, tail.offset() - described_at);
    layout.crc = tail.next();
    layout.payload = tail.next();
    if (!tail.at_end()) return std::nullopt;
    return layout;
}

uint32_t body_crc(const Layout& layout) {
    return crc32c(layout.payload, crc32c(layout.described));
}

void write_item(Writer& writer, const Item& item) {
    CL_ASSERT(item.sample.empty() == item.outputs.empty());
    writer.array(9).number(item.slot).number(item.admission).number(item.position);
    writer.number(item.rows).number(item.flags).number(item.table_index);
    writer.numbers(item.blocks).numbers(item.outputs);
    item.sample.empty() ? writer.nil() : writer.bin(item.sample);
}

void check_item(const Item& item, Problem& problem) {
    // What precedes the position of a FIRST item is whole blocks of the prefix cache.
    const bool first = (item.flags & kItemFirst) != 0;
    if (first && (item.table_index != 0 || item.position % kBlockRows != 0 ||
                  item.position / kBlockRows > item.blocks.size())) {
        problem.fail("item", "is FIRST and does not begin at 0 or behind blocks that it names");
    }
    if (item.position + item.rows > kPositionsMax) {
        problem.fail("item", "goes beyond the longest context");
    }
    if (item.table_index + item.blocks.size() > kSequenceBlocksMax) {
        problem.fail("item", "goes beyond the block table");
    }
    const bool ascending =
        std::adjacent_find(item.outputs.begin(), item.outputs.end(), std::greater_equal<>()) ==
        item.outputs.end();
    if (!ascending) problem.fail("item outputs", "do not ascend");
    if (item.sample.empty() != item.outputs.empty()) {
        problem.fail("item sample", "is not there exactly when outputs are");
    }
}

void read_item(Cursor& cursor, Problem& problem, Item& item) {
    cursor.array("item", 9, 9);
    item.slot = cursor.u32("item slot", 0, kSlotsMax - 1);
    item.admission = cursor.u64("item admission", 1);
    item.position = cursor.u32("item position", 0, kPositionsMax - 1);
    item.rows = cursor.u32("item rows", 1, kFrameRowsMax);
    item.flags = cursor.u8("item flags", 0, kAllFlags);
    item.table_index = cursor.u32("item table_index", 0, kSequenceBlocksMax);
    cursor.numbers("item blocks", kItemBlocksMax, kNoBlock - 1, item.blocks);
    cursor.numbers("item outputs", kFrameRowsMax, item.rows - 1, item.outputs);
    item.sample.clear();
    if (!cursor.take_nil()) item.sample = cursor.bin("item sample", kSampleBytesMax);
    check_item(item, problem);
}

void read_items(ByteView element, Problem& problem, std::vector<Item>& items) {
    Cursor cursor(element, problem);
    std::bitset<kSlotsMax> named;
    items.resize(cursor.array("items", 0, kFrameItemsMax));
    for (Item& item : items) {
        read_item(cursor, problem, item);
        if (problem.found()) return;
        if (named[item.slot]) problem.fail("item slot", "is named twice");
        named[item.slot] = true;
    }
}

// The rows of the frame are all rows of its items, or from the last stage on those that want
// output.
void check_rows(const DataFrame& frame, Problem& problem) {
    size_t all = 0;
    size_t wanted = 0;
    for (const Item& item : frame.items) {
        all += item.rows;
        wanted += item.outputs.size();
    }
    if (all > kFrameRowsMax) problem.fail("items", "have more rows than a frame may");
    const bool ids = frame.dtype == DType::kIds;
    if (frame.rows != all && (ids || frame.rows != wanted)) {
        problem.fail("shape", "has another number of rows than the items");
    }
    if (ids && frame.width != 1) problem.fail("shape", "has a width that is not 1 for ids");
    if (frame.payload.size() != size_t{frame.rows} * frame.width * kValueBytes) {
        problem.fail("payload", "is not rows x width x 4 bytes");
    }
}

void read_body(const Layout& layout, Problem& problem, DataFrame& frame) {
    read_timings(layout.ext, problem, frame.timings);
    read_items(layout.items, problem, frame.items);
    frame.dtype = DType{Cursor(layout.dtype, problem).u8("dtype", 1, 2)};
    Cursor shape(layout.shape, problem);
    shape.array("shape", 2, 2);
    frame.rows = shape.u32("rows", 0, kFrameRowsMax);
    frame.width = shape.u32("width", 1, kWidthMax);
    const std::string_view bytes = Cursor(layout.payload, problem).bin("payload", kFrameBytesMax);
    frame.payload = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
    if (!problem.found()) check_rows(frame, problem);
}

}  // namespace

Bytes encode_frame(const FrameHeader& header, std::span<const HopTiming> timings,
                   std::span<const Item> items, DType dtype, uint32_t rows, uint32_t width,
                   size_t* payload_at) {
    Bytes frame;
    encode_frame(header, timings, items, dtype, rows, width, frame, payload_at);
    return frame;
}

void encode_frame(const FrameHeader& header, std::span<const HopTiming> timings,
                  std::span<const Item> items, DType dtype, uint32_t rows, uint32_t width,
                  Bytes& frame, size_t* payload_at) {
    CL_ASSERT(header.type == kFrameData);
    CL_ASSERT(items.size() <= kFrameItemsMax && rows <= kFrameRowsMax && width <= kWidthMax);
    const size_t payload_bytes = size_t{rows} * width * kValueBytes;

    frame.clear();
    frame.reserve(kHeaderBytes + 64 * (1 + items.size()) + payload_bytes);
    frame.resize(kHeaderBytes);
    store_header(frame.data(), header);
    Writer writer(frame);
    write_timings(writer, timings);
    writer.array(items.size());
    for (const Item& item : items) write_item(writer, item);
    writer.number(static_cast<uint8_t>(dtype));
    writer.array(2).number(rows).number(width);
    frame.resize(frame.size() + kFixedU32Bytes);
    store_u32(frame.data() + frame.size() - kFixedU32Bytes, 0);  // set by seal_frame
    writer.bin_header(payload_bytes);
    *payload_at = frame.size();
    frame.resize(frame.size() + payload_bytes);
    CL_ASSERT(frame.size() <= kFrameBytesMax);  // the router composes frames that fit
}

void seal_frame(Bytes& frame) {
    const std::optional<Layout> layout = find_layout(frame);
    CL_ASSERT(layout.has_value());
    store_u32(frame.data() + (layout->crc.data() - frame.data()), body_crc(*layout));
}

std::optional<FrameError> decode_frame(const FrameHeader& header, ByteView bytes,
                                       DataFrame& frame) {
    if (header.type != kFrameData) return malformed_frame("not a data frame");
    if (bytes.size() < kHeaderBytes || bytes.size() > kFrameBytesMax) {
        return malformed_frame("a frame of an impossible size");
    }
    const std::optional<Layout> layout = find_layout(bytes);
    if (!layout) return malformed_frame("a frame whose elements do not fill it");
    const std::optional<uint32_t> crc = load_crc(layout->crc);
    if (!crc) return malformed_frame("a body CRC that is not in its fixed-width encoding");
    if (*crc != body_crc(*layout)) {
        return FrameError{true, Error{ErrorCode::kMalformed, "the body CRC is off"}};
    }
    Problem problem;
    frame.header = header;
    read_body(*layout, problem, frame);
    if (problem.found()) return FrameError{false, problem.error()};
    return std::nullopt;
}

std::variant<DataFrame, FrameError> decode_frame(const FrameHeader& header, ByteView bytes) {
    DataFrame frame;
    if (auto error = decode_frame(header, bytes, frame)) return *std::move(error);
    return frame;
}

}  // namespace chatloop::wire
