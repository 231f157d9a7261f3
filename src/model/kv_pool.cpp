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

// Elements of one layer in a block.
uint64_t layer_elements(int32_t n_kv_heads, int32_t head_dim) {
    return uint64_t{2} * kernel::kBlockPositions * static_cast<uint64_t>(n_kv_heads) *
           static_cast<uint64_t>(head_dim);
}

}  // namespace

uint64_t KvPool::block_bytes(const ModelSpec& spec, int32_t layers) {
    CL_ASSERT(layers > 0);
    return layer_elements(spec.n_kv_heads, spec.head_dim) * static_cast<uint64_t>(layers) *
           sizeof(uint16_t);
}

Result<KvPool> KvPool::create(const ModelSpec& spec, int32_t layers, uint64_t kv_cache_mb) {
    const uint64_t one = block_bytes(spec, layers);
    const uint64_t pool_mb = std::min(kv_cache_mb, kPoolBytesMax / kMebibyte);
    const uint64_t blocks = std::min(pool_mb * kMebibyte / one, kBlocksMax);
    if (blocks == 0) {
        return Error{ErrorCode::kInvalidRequest,
                     "kv_cache_mb " + std::to_string(kv_cache_mb) +
                         " holds no block of 64 positions: this stage needs at least " +
                         std::to_string((one + kMebibyte - 1) / kMebibyte)};
    }
    return create_blocks(spec, layers, static_cast<uint32_t>(blocks));
}

Result<KvPool> KvPool::create_blocks(const ModelSpec& spec, int32_t layers, uint32_t blocks) {
    CL_ASSERT(blocks > 0);
    KvPool pool;
    pool.block_bytes_ = block_bytes(spec, layers);
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
    view.base = memory_.data() + sizeof(uint16_t) * static_cast<uint64_t>(index) *
                                     layer_elements(n_kv_heads_, head_dim_);
    view.block_stride = static_cast<int64_t>(block_bytes_);
    view.n_kv_heads = n_kv_heads_;
    view.head_dim = head_dim_;
    return view;
}

void KvPool::poison() {
    std::fill_n(values(), block_bytes_ / sizeof(uint16_t) * blocks_, kF16Nan);
}

}  // namespace chatloop
