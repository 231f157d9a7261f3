// partition_metadata.json: what is in a ModelSpec may be trusted (model/spec.hpp).
#include <limits>
#include <string>

#include "chatloop/core/assert.hpp"
#include "chatloop/model/spec.hpp"
#include "target.hpp"

namespace chatloop::fuzz {

std::vector<Bytes> seeds() {
    const std::string zeros(64, '0');
    const std::string file = R"("bytes": 4096, "sha256": ")" + zeros + R"("})";
    return {bytes_of(R"({"format": "chatloop-partition", "format_version": 1, "numerics_abi": 1,
"model_id": ")" + zeros.substr(32) + R"(", "cut_id": ")" + zeros.substr(48) + R"(",
"model_name": "tiny", "architecture": "llama", "quantization": "none", "hidden_size": 64,
"ffn_size": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "vocab_size": 10,
"context_length": 256, "rot_dim": 16, "norm_eps": 1e-5, "attn_scale": 0.25, "embedding_scale": 1.0,
"residual_scale": 1.0, "logit_scale": 1.0, "attn_softcap": 0.0, "logit_softcap": 0.0, "bos_id": -1,
"eos_id": 2, "add_bos": false, "stop_ids": [0, 2], "source": {"file": "tiny.gguf"},
"partitions": [
{"file": "partition_0.safetensors", "layer_first": 0, "layer_end": 1, "has_embedding": true,
)" + file + R"(,
{"file": "partition_1.safetensors", "layer_first": 1, "layer_end": 2, "has_embedding": false,
)" + file + R"(],
"head": {"file": "partition_head.safetensors", )" + file + R"(,
"tokenizer": [{"file": "tokenizer/tokenizer.json", )" + file + "]}")};
}

namespace {

void check_product(int64_t a, int64_t b) {
    CL_ASSERT(a > 0 && b > 0 && a * b <= std::numeric_limits<int32_t>::max());
}

void check(const ModelSpec& spec) {
    for (const int32_t width : {spec.hidden_size, spec.ffn_size, spec.q_width(), spec.kv_width()})
        check_product(width, 1);
    check_product(spec.n_heads, spec.head_dim);
    CL_ASSERT(spec.n_heads % spec.n_kv_heads == 0);
    CL_ASSERT(spec.rot_dim > 0 && spec.rot_dim % 2 == 0 && spec.rot_dim <= spec.head_dim);
    int32_t layer_next = 0;
    for (const PartitionEntry& partition : spec.partitions) {
        CL_ASSERT(partition.layer_first == layer_next && partition.layer_end > layer_next);
        CL_ASSERT(partition.file.find('/') == std::string::npos);
        layer_next = partition.layer_end;
    }
    CL_ASSERT(layer_next == spec.n_layers);
    for (const int32_t id : spec.stop_ids) CL_ASSERT(id >= 0 && id < spec.vocab_size);
}

}  // namespace
}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop;
    const auto spec = parse_spec({reinterpret_cast<const char*>(data), size}, "metadata");
    if (spec) {
        fuzz::check(*spec);
    } else {
        CL_ASSERT(spec.error().message.find('\n') == std::string::npos);
    }
    return 0;
}
