#include "chatloop/model/kv_pool.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "chatloop/core/ids.hpp"

namespace chatloop {

static_assert(kernel::kBlockPositions == kBlockRows, "one block for router and kernels");

namespace {

constexpr uint64_t kMebibyte = 1u << 20;
constexpr uint64_t kBlocksMax = INT32_MAX;
constexpr uint64_t kPoolBytesMax = uint64_t{1} << 46;
constexpr uint16_t kF16Nan = 0x7e00;

}  // namespace

std::string_view kv_type_name(kernel::KvType type) {
    return type == kernel::KvType::kInt8 ? "int8" : "f16";
}

uint64_t KvPool::block_bytes(const ModelSpec& spec, int32_t layers, kernel::KvType type) {
    CL_ASSERT(layers > 0);
    return static_cast<uint64_t>(kernel::kv_head_bytes(type, spec.head_dim)) *
           static_cast<uint64_t>(spec.n_kv_heads) * static_cast<uint64_t>(layers);
}

Result<KvPool> KvPool::create(const ModelSpec& spec, int32_t layers, uint64_t kv_cache_mb,
                              kernel::KvType type) {
    if (type == kernel::KvType::kInt8 && spec.head_dim % kernel::kGroup != 0) {
        return Error{ErrorCode::kInvalidRequest,
                     "kv_cache_dtype int8 takes heads of whole groups of 32 values, this model's "
                     "have " + std::to_string(spec.head_dim) + ": take f16"};
    }
    const uint64_t one = block_bytes(spec, layers, type);
    const uint64_t pool_mb = std::min(kv_cache_mb, kPoolBytesMax / kMebibyte);
    const uint64_t blocks = std::min(pool_mb * kMebibyte / one, kBlocksMax);
    if (blocks == 0) {
        return Error{ErrorCode::kInvalidRequest,
                     "kv_cache_mb " + std::to_string(kv_cache_mb) +
                         " holds no block of 64 positions: this stage needs at least " +
                         std::to_string((one + kMebibyte - 1) / kMebibyte)};
    }
    return create_blocks(spec, layers, static_cast<uint32_t>(blocks), type);
}

Result<KvPool> KvPool::create_blocks(const ModelSpec& spec, int32_t layers, uint32_t blocks,
                                     kernel::KvType type) {
    CL_ASSERT(blocks > 0);
    KvPool pool;
    pool.type_ = type;
    pool.block_bytes_ = block_bytes(spec, layers, type);
    pool.layers_ = layers;
    pool.n_kv_heads_ = spec.n_kv_heads;
    pool.head_dim_ = spec.head_dim;
    Result<PrivateMemory> memory = PrivateMemory::map(pool.block_bytes_ * blocks);
    if (!memory) {
        return Error{ErrorCode::kUnsupported, memory.error().message + ", " +
                                                  std::to_string(blocks) +
                                                  " KV blocks: lower kv_cache_mb"};
    }
    pool.memory_ = std::move(*memory);
    pool.blocks_ = blocks;
    return pool;
}

kernel::KvLayer KvPool::layer(int32_t index) const {
    CL_ASSERT(index >= 0 && index < layers_);
    kernel::KvLayer view;
    view.type = type_;
    view.base = memory_.data() +
                block_bytes_ / static_cast<uint64_t>(layers_) * static_cast<uint64_t>(index);
    view.block_stride = static_cast<int64_t>(block_bytes_);
    view.n_kv_heads = n_kv_heads_;
    view.head_dim = head_dim_;
    return view;
}

// As int8 its scales are.
void KvPool::poison() {
    std::fill_n(reinterpret_cast<uint16_t*>(memory_.data()),
                block_bytes_ / sizeof(uint16_t) * blocks_, kF16Nan);
}

}  // namespace chatloop
