// Data frames, RESULTs and sample elements: any bytes decode to a message or an error, and what
// is decoded encodes to what decodes to the same.
#include <algorithm>

#include "chatloop/core/assert.hpp"
#include "frames.hpp"
#include "target.hpp"
#include "unit/wire/examples.hpp"

namespace chatloop::fuzz {
namespace {

using namespace wire;

Bytes encoded(const DataFrame& frame) {
    size_t payload_at = 0;
    Bytes bytes = encode_frame(frame.header, frame.timings, frame.items, frame.dtype, frame.rows,
                               frame.width, &payload_at);
    CL_ASSERT(bytes.size() - payload_at == frame.payload.size());
    std::copy(frame.payload.begin(), frame.payload.end(),
              bytes.begin() + static_cast<ptrdiff_t>(payload_at));
    seal_frame(bytes);
    return bytes;
}

void check_samples(const DataFrame& frame) {
    for (const Item& item : frame.items) {
        if (item.outputs.empty()) continue;
        const auto sample = decode_sample(item.sample, item.outputs.size());
        if (!sample) continue;
        const std::string again = encode_sample(*sample);
        CL_ASSERT(encode_sample(*decode_sample(again, item.outputs.size())) == again);
    }
}

void check(const Bytes& bytes) {
    const auto header = decode_header(bytes);
    if (!header) return;
    if (header->type == kFrameData) {
        const auto decoded = decode_frame(*header, bytes);
        const auto* frame = std::get_if<DataFrame>(&decoded);
        if (frame == nullptr) return;
        check_samples(*frame);
        const Bytes again = encoded(*frame);
        const auto twice = decode_frame(*header, again);
        CL_ASSERT(std::holds_alternative<DataFrame>(twice));
        CL_ASSERT(encoded(std::get<DataFrame>(twice)) == again);
    } else {
        const auto decoded = decode_result(*header, bytes);
        const auto* result = std::get_if<ResultFrame>(&decoded);
        if (result == nullptr) return;
        const Bytes again = encode_result(*result);
        const auto twice = decode_result(*header, again);
        CL_ASSERT(std::holds_alternative<ResultFrame>(twice));
        CL_ASSERT(encode_result(std::get<ResultFrame>(twice)) == again);
    }
}

}  // namespace

std::vector<Bytes> seeds() {
    return {wire::test::frame_example(), encode_result(wire::test::result_example())};
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    chatloop::fuzz::Bytes bytes(data, data + size);
    chatloop::fuzz::check(bytes);
    chatloop::fuzz::reseal(bytes);
    chatloop::fuzz::check(bytes);
    return 0;
}
