// RESULT frames (docs/protocol.md, RESULT).
#include <bitset>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/wire/crc.hpp"
#include "header.hpp"

namespace chatloop::wire {
namespace {

void write_output(Writer& writer, const Output& output) {
    writer.array(5).number(output.row).number(output.kind).number(output.token);
    writer.f32(output.logprob).array(2 * output.top.size());
    for (const TopLogprob& top : output.top) writer.number(top.token).f32(top.logprob);
}

void write_item(Writer& writer, const ResultItem& item) {
    writer.array(4).number(item.slot).number(item.admission);
    writer.number(static_cast<uint8_t>(item.error)).array(item.outputs.size());
    for (const Output& output : item.outputs) write_output(writer, output);
}

void read_output(Cursor& cursor, Problem& problem, Output& output) {
    cursor.array("output", 5, 5);
    output.row = cursor.u32("output row", 0, kFrameRowsMax - 1);
    output.kind = cursor.u8("output kind", 1, 2);
    output.token = cursor.u32("output token");
    output.logprob = cursor.f32("output logprob");
    const size_t numbers = cursor.array("output top", 0, 2 * kTopLogprobsMax);
    if (numbers % 2 != 0) problem.fail("output top", "is not in pairs");
    for (size_t i = 0; i < numbers / 2 && !problem.found(); ++i) {
        const uint32_t token = cursor.u32("output top token");
        output.top.push_back({token, cursor.f32("output top logprob")});
    }
}

void read_items(ByteView element, Problem& problem, std::vector<ResultItem>& items) {
    Cursor cursor(element, problem);
    std::bitset<kSlotsMax> named;
    size_t outputs = 0;
    items.resize(cursor.array("result items", 0, kFrameItemsMax));
    for (ResultItem& item : items) {
        cursor.array("result item", 4, 4);
        item.slot = cursor.u32("result slot", 0, kSlotsMax - 1);
        item.admission = cursor.u64("result admission", 1);
        item.error = ItemError{cursor.u8("result error", 0, 3)};
        item.outputs.resize(cursor.array("result outputs", 0, kFrameRowsMax));
        outputs += item.outputs.size();
        if (outputs > kFrameRowsMax) problem.fail("result", "has more outputs than frames rows");
        for (Output& output : item.outputs) read_output(cursor, problem, output);
        if (problem.found()) return;
        if (named[item.slot]) problem.fail("result slot", "is named twice");
        named[item.slot] = true;
    }
}

}  // namespace

Bytes encode_result(const ResultFrame& result) {
    Bytes bytes;
    encode_result(result, bytes);
    return bytes;
}

void encode_result(const ResultFrame& result, Bytes& bytes) {
    CL_ASSERT(result.header.type == kFrameResult);
    CL_ASSERT(result.items.size() <= kFrameItemsMax);
    bytes.resize(kHeaderBytes);
    store_header(bytes.data(), result.header);
    Writer writer(bytes);
    write_timings(writer, result.timings);
    const size_t items_at = bytes.size();
    writer.array(result.items.size());
    for (const ResultItem& item : result.items) write_item(writer, item);
    const uint32_t crc = crc32c(ByteView(bytes).subspan(items_at));
    bytes.resize(bytes.size() + kFixedU32Bytes);
    store_u32(bytes.data() + bytes.size() - kFixedU32Bytes, crc);
    CL_ASSERT(bytes.size() <= kFrameBytesMax);
}

std::variant<ResultFrame, FrameError> decode_result(const FrameHeader& header, ByteView bytes) {
    if (header.type != kFrameResult) return malformed_frame("not a RESULT");
    if (bytes.size() < kHeaderBytes || bytes.size() > kFrameBytesMax) {
        return malformed_frame("a RESULT of an impossible size");
    }
    Tail tail(bytes);
    const ByteView ext = tail.next();
    const ByteView items = tail.next();
    const ByteView crc_element = tail.next();
    if (!tail.at_end()) return malformed_frame("a RESULT whose elements do not fill it");
    const std::optional<uint32_t> crc = load_crc(crc_element);
    if (!crc) return malformed_frame("a body CRC that is not in its fixed-width encoding");
    if (*crc != crc32c(items)) {
        return FrameError{true, Error{ErrorCode::kMalformed, "the body CRC is off"}};
    }
    Problem problem;
    ResultFrame result;
    result.header = header;
    read_timings(ext, problem, result.timings);
    read_items(items, problem, result.items);
    if (problem.found()) return FrameError{false, problem.error()};
    return result;
}

}  // namespace chatloop::wire
