// The header of a partition file. The input is the file's beginning; its length is what the header
// announces, or the input's own.
#include "chatloop/model/safetensors.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"
#include "target.hpp"

namespace chatloop::fuzz {
namespace {

constexpr uint64_t kDataAlign = 4096;
constexpr uint64_t kTensorAlign = 64;

Bytes file_head(std::string_view json, size_t header_bytes) {
    Bytes head(8);
    for (size_t i = 0; i < 8; ++i) head[i] = static_cast<uint8_t>(uint64_t{header_bytes} >> 8 * i);
    const Bytes text = bytes_of(json);
    head.insert(head.end(), text.begin(), text.end());
    head.resize(8 + header_bytes, ' ');
    return head;
}

void check(std::span<const uint8_t> head, uint64_t file_bytes) {
    const auto header = parse_safetensors_header(head, file_bytes, "file");
    if (!header) {
        CL_ASSERT(header.error().message.find('\n') == std::string::npos);
        return;
    }
    uint64_t covered = 0;
    for (const auto& [name, tensor] : header->tensors) {
        CL_ASSERT(!tensor.shape.empty() && tensor.bytes > 0);
        CL_ASSERT(tensor.offset <= file_bytes && tensor.bytes <= file_bytes - tensor.offset);
        CL_ASSERT(is_pad(name) || tensor.offset % kTensorAlign == 0);
        covered += tensor.bytes;
    }
    CL_ASSERT(covered <= file_bytes);  // nothing overlaps
    CL_ASSERT((file_bytes - covered) % kDataAlign == 0);
}

}  // namespace

std::vector<Bytes> seeds() {
    const std::string_view two =
        R"({"__metadata__":{"format":"chatloop-partition","format_version":"1"},)"
        R"("layers.0.attn_norm":{"dtype":"F32","shape":[64],"data_offsets":[0,256]},)"
        R"("layers.0.wq.q4":{"dtype":"U8","shape":[4,2,4,16,4],"data_offsets":[256,2304]},)"
        R"("layers.0.wq.scales":{"dtype":"F16","shape":[4,2,16],"data_offsets":[2304,2560]},)"
        R"("pad.0":{"dtype":"U8","shape":[10],"data_offsets":[2560,2570]}})";
    return {file_head(two, kDataAlign - 8), file_head("{}", kDataAlign - 8), file_head("{}", 2)};
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop::fuzz;
    const std::span<const uint8_t> head(data, size);
    check(head, size);
    for (const uint64_t tensors : {0, 2570, 2560, 1 << 20})
        check(head, std::max<uint64_t>(size, kDataAlign + tensors));
    return 0;
}
