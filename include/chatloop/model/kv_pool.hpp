// The KV cache of a stage: equal blocks of 64 positions for all its layers, numbered from 0.
// Which sequence uses which block is the router's business. Memory is taken as blocks are first
// written, in huge pages where there are any.
//
// A block holds its layers one after the other, each its kv heads as kernel::kv_head_bytes says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "chatloop/core/result.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/private_memory.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

std::string_view kv_type_name(kernel::KvType type);  // "f16", "int8"

class KvPool {
public:
    // As many blocks as fit into `kv_cache_mb` MiB. kInvalidRequest: not even one, or int8 for
    // heads of other than whole groups; kUnsupported: the address space has no room.
    static Result<KvPool> create(const ModelSpec& spec, int32_t layers, uint64_t kv_cache_mb,
                                 kernel::KvType type);
    static Result<KvPool> create_blocks(const ModelSpec& spec, int32_t layers, uint32_t blocks,
                                        kernel::KvType type);

    static uint64_t block_bytes(const ModelSpec& spec, int32_t layers, kernel::KvType type);

    uint32_t blocks() const { return blocks_; }
    uint64_t block_bytes() const { return block_bytes_; }
    uint64_t bytes() const { return block_bytes_ * blocks_; }
    int32_t layers() const { return layers_; }
    kernel::KvType type() const { return type_; }

    // The part of layer `index`, counted from the stage's first layer.
    kernel::KvLayer layer(int32_t index) const;

    // Fills every block with NaN, so that a read of what was never written shows (tests).
    void poison();

private:
    KvPool() = default;

    PrivateMemory memory_;  // [blocks][layers][n_kv_heads][kv_head_bytes]
    kernel::KvType type_ = kernel::KvType::kF16;
    uint64_t block_bytes_ = 0;
    uint32_t blocks_ = 0;
    int32_t layers_ = 0;
    int32_t n_kv_heads_ = 0;
    int32_t head_dim_ = 0;
};

}  // namespace chatloop
