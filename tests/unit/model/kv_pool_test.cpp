#include "chatloop/model/kv_pool.hpp"

#include <doctest/doctest.h>

using namespace chatloop;
using kernel::KvType;

namespace {

ModelSpec shape() {
    ModelSpec spec;
    spec.n_kv_heads = 2;
    spec.head_dim = 16;
    return spec;
}

constexpr uint64_t kLayerBytes = 2 * 64 * 2 * 16 * 2;  // K and V, positions, heads, dims, f16

}  // namespace

TEST_CASE("the block count follows from kv_cache_mb") {
    CHECK(KvPool::block_bytes(shape(), 3, KvType::kF16) == 3 * kLayerBytes);
    const Result<KvPool> pool = KvPool::create(shape(), 3, 1, KvType::kF16);
    REQUIRE(pool.ok());
    CHECK(pool->blocks() == (1u << 20) / (3 * kLayerBytes));
    CHECK(pool->block_bytes() == 3 * kLayerBytes);
}

TEST_CASE("a pool that holds no block is refused, an absurd one is bounded") {
    ModelSpec large = shape();
    large.head_dim = 1024;
    const Result<KvPool> none = KvPool::create(large, 3, 1, KvType::kF16);
    REQUIRE_FALSE(none.ok());
    CHECK(none.error().message.find("kv_cache_mb 1 ") != std::string::npos);
    CHECK_FALSE(KvPool::create(shape(), 3, 0, KvType::kF16).ok());
    const Result<KvPool> huge = KvPool::create(shape(), 3, UINT64_MAX, KvType::kF16);
    if (huge.ok()) CHECK(huge->blocks() <= INT32_MAX);
}

TEST_CASE("int8 halves the blocks but for the scales, in heads of whole groups") {
    ModelSpec spec = shape();
    spec.head_dim = 64;
    const uint64_t f16 = KvPool::block_bytes(spec, 3, KvType::kF16);
    const uint64_t int8 = KvPool::block_bytes(spec, 3, KvType::kInt8);
    CHECK(int8 == f16 / 2 + f16 / 32);
    const Result<KvPool> pool = KvPool::create(spec, 3, 8, KvType::kInt8);
    REQUIRE(pool.ok());
    CHECK(pool->type() == KvType::kInt8);
    CHECK(pool->blocks() == (8u << 20) / int8);
    for (int32_t i = 0; i < 3; ++i) {
        const kernel::KvLayer layer = pool->layer(i);
        CHECK(layer.type == KvType::kInt8);
        CHECK(layer.base - pool->layer(0).base == i * static_cast<int64_t>(int8 / 3));
        CHECK(layer.block_stride == static_cast<int64_t>(int8));
        CHECK(reinterpret_cast<uintptr_t>(layer.base) % 64 == 0);
    }
    for (const int32_t head_dim : {16, 48, 80}) {
        spec.head_dim = head_dim;
        const Result<KvPool> refused = KvPool::create(spec, 3, 8, KvType::kInt8);
        REQUIRE_FALSE(refused.ok());
        CHECK(refused.error().code == ErrorCode::kInvalidRequest);
        CHECK(refused.error().message.find("kv_cache_dtype int8") == 0);
        CHECK(KvPool::create(spec, 3, 8, KvType::kF16).ok());
    }
}

TEST_CASE("layers and blocks do not overlap and start at whole cache lines") {
    Result<KvPool> pool = KvPool::create_blocks(shape(), 3, 5, KvType::kF16);
    REQUIRE(pool.ok());
    const KvPool moved = std::move(*pool);
    const uint8_t* origin = moved.layer(0).base;
    for (int32_t i = 0; i < 3; ++i) {
        const kernel::KvLayer layer = moved.layer(i);
        CHECK(layer.base - origin == i * static_cast<int64_t>(kLayerBytes));
        CHECK(layer.block_stride == 3 * static_cast<int64_t>(kLayerBytes));
        CHECK(layer.n_kv_heads == 2);
        CHECK(layer.head_dim == 16);
        CHECK(reinterpret_cast<uintptr_t>(layer.base) % 64 == 0);
    }
}

TEST_CASE("poison reaches the last element of the last block") {
    Result<KvPool> pool = KvPool::create_blocks(shape(), 2, 4, KvType::kF16);
    REQUIRE(pool.ok());
    const auto* first = reinterpret_cast<const uint16_t*>(pool->layer(0).base);
    const size_t count = pool->block_bytes() / 2 * pool->blocks();
    CHECK(first[0] == 0);
    CHECK(first[count - 1] == 0);
    pool->poison();
    for (size_t i = 0; i < count; ++i) {
        if ((first[i] & 0x7fff) <= 0x7c00) FAIL_CHECK("no NaN at " << i);
    }
}
