// The KV cache of a stage: equal blocks of 64 positions for all its layers, f16, numbered from 0.
// Which sequence uses which block is the router's business. Memory is taken as blocks are first
// written, in huge pages where there are any.
//
// A block holds its layers one after the other: per kv head K transposed [head_dim][64], then V
// [64][head_dim].
#pragma once

#include <cstddef>
#include <cstdint>

#include "chatloop/core/result.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/private_memory.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

class KvPool {
public:
    // As many blocks as fit into `kv_cache_mb` MiB. kInvalidRequest: not even one;
    // kUnsupported: the address space has no room.
    static Result<KvPool> create(const ModelSpec& spec, int32_t layers, uint64_t kv_cache_mb);
    static Result<KvPool> create_blocks(const ModelSpec& spec, int32_t layers, uint32_t blocks);

    static uint64_t block_bytes(const ModelSpec& spec, int32_t layers);

    uint32_t blocks() const { return blocks_; }
    uint64_t block_bytes() const { return block_bytes_; }
    uint64_t bytes() const { return block_bytes_ * blocks_; }
    int32_t layers() const { return layers_; }

    // The part of layer `index`, counted from the stage's first layer.
    kernel::KvLayer layer(int32_t index) const;

    // Fills every block with NaN, so that a read of what was never written shows (tests).
    void poison();

private:
    KvPool() = default;
    uint16_t* values() const { return reinterpret_cast<uint16_t*>(memory_.data()); }

    PrivateMemory memory_;  // [blocks][layers][n_kv_heads][2 x 64 x head_dim]
    uint64_t block_bytes_ = 0;
    uint32_t blocks_ = 0;
    int32_t layers_ = 0;
    int32_t n_kv_heads_ = 0;
    int32_t head_dim_ = 0;
};

}  // namespace chatloop
