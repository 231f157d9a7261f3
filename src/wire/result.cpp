// RESULT frames (docs/protocol.md, RESULT).
#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"
#include "crc.hpp"
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

Output read_output(Value value) {
    Fields fields = value.fields(5);
    Output output;
    output.row = fields.next("output row").u32(0, kFrameRowsMax - 1);
    output.kind = fields.next("output kind").u8(1, 2);
    output.token = fields.next("output token").u32();
    output.logprob = fields.next("output logprob").f32();
    const Value top = fields.next("output top");
    Fields pairs = top.list(0, 2 * kTopLogprobsMax);
    if (pairs.count() % 2 != 0) top.fail("is not in pairs");
    for (size_t i = 0; i < pairs.count() / 2; ++i) {
        const uint32_t token = pairs.next("output top token").u32();
        output.top.push_back({token, pairs.next("output top logprob").f32()});
    }
    return output;
}

ResultItem read_item(Value value) {
    Fields fields = value.fields(4);
    ResultItem item;
    item.slot = fields.next("result slot").u32(0, kSlotsMax - 1);
    item.admission = fields.next("result admission").u64(1);
    item.error = ItemError{fields.next("result error").u8(0, 3)};
    Fields outputs = fields.next("result outputs").list(0, kFrameRowsMax);
    for (size_t i = 0; i < outputs.count(); ++i) {
        item.outputs.push_back(read_output(outputs.next("output")));
    }
    return item;
}

std::vector<ResultItem> read_items(ByteView element, Problem& problem) {
    const std::optional<Tree> tree = Tree::parse(element);
    CL_ASSERT(tree.has_value());  // the tail was walked
    Fields list = Value(&tree->root(), "result items", problem).list(0, kFrameItemsMax);
    std::vector<ResultItem> items;
    std::vector<bool> named(kSlotsMax);
    size_t outputs = 0;
    for (size_t i = 0; i < list.count() && !problem.found(); ++i) {
        items.push_back(read_item(list.next("result item")));
        outputs += items.back().outputs.size();
        if (named[items.back().slot]) problem.fail("result slot", "is named twice");
        if (outputs > kFrameRowsMax) problem.fail("result", "has more outputs than frames rows");
        named[items.back().slot] = true;
    }
    return items;
}

}  // namespace

Bytes encode_result(const ResultFrame& result) {
    CL_ASSERT(result.header.type == kFrameResult);
    CL_ASSERT(result.items.size() <= kFrameItemsMax);
    Bytes bytes(kHeaderBytes);
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
    return bytes;
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
    result.timings = read_timings(ext, problem);
    result.items = read_items(items, problem);
    if (problem.found()) return FrameError{false, problem.error()};
    return result;
}

}  // namespace chatloop::wire
