#include <doctest/doctest.h>

#include "support.hpp"

using namespace chatloop::kernel;
using namespace chatloop::kernel::test;

namespace {

// A pool of NaNs with the first `positions` of one sequence written, blocks in reverse order.
struct Cache {
    int32_t kv_heads, head_dim;
    KvType type;
    std::vector<uint8_t> pool;
    std::vector<uint32_t> table;
    std::vector<float> k, v;  // (positions, kv_heads, head_dim) as given

    Cache(const Kernels& kernels, KvType type, int32_t kv_heads, int32_t head_dim,
          int32_t positions)
        : kv_heads(kv_heads), head_dim(head_dim), type(type) {
        const int32_t blocks = (positions + kBlockPositions - 1) / kBlockPositions;
        const int32_t width = kv_heads * head_dim;
        pool.assign(static_cast<size_t>(blocks * stride()), 0x7e);  // 0x7e7e is a NaN
        for (int32_t b = 0; b < blocks; ++b) {
            table.push_back(static_cast<uint32_t>(blocks - 1 - b));
        }
        k = random_values(static_cast<size_t>(positions) * width, 2.0f, 21);
        v = random_values(static_cast<size_t>(positions) * width, 2.0f, 22);
        for (int32_t p = 0; p < positions; ++p) {
            kernels.store_kv(layer(), table[p / kBlockPositions], p % kBlockPositions,
                             k.data() + p * width, v.data() + p * width);
        }
    }
    int64_t stride() const { return kv_heads * kv_head_bytes(type, head_dim) + 128; }
    KvLayer layer() { return {pool.data(), stride(), kv_heads, head_dim, type}; }
};

std::vector<float> attend(const Kernels& kernels, Cache& cache, const std::vector<float>& q,
                          const AttentionShape& shape) {
    std::vector<float> out(q.size(), NAN);
    kernels.attention(out.data(), q.data(), cache.layer(), cache.table.data(), shape);
    return out;
}

std::vector<float> row_by_row(const Kernels& kernels, Cache& cache, const std::vector<float>& q,
                              const AttentionShape& shape) {
    const size_t width = static_cast<size_t>(shape.n_heads) * cache.head_dim;
    std::vector<float> out;
    for (int32_t r = 0; r < shape.rows; ++r) {
        const std::vector<float> row(q.begin() + r * width, q.begin() + (r + 1) * width);
        AttentionShape one = shape;
        one.rows = 1;
        one.position_first += r;
        const std::vector<float> y = attend(kernels, cache, row, one);
        out.insert(out.end(), y.begin(), y.end());
    }
    return out;
}

}  // namespace

TEST_CASE("attention: chunks, single rows and both tables have the same bits over unwritten NaNs") {
    struct Case {
        int32_t heads, kv_heads, head_dim, rows, first, window;
        float softcap;
    };
    const Case cases[] = {
        {3, 3, 32, 5, 0, 0, 0.0f},    {9, 3, 64, 7, 60, 0, 0.0f},   {8, 1, 80, 3, 127, 0, 0.0f},
        {6, 2, 128, 4, 62, 0, 50.0f}, {3, 1, 64, 33, 50, 40, 0.0f}, {3, 1, 32, 40, 150, 3, 20.0f},
        {4, 4, 16, 70, 1, 1, 0.0f},   {9, 3, 64, 1, 191, 0, 0.0f},  {2, 1, 64, 9, 130, 130, 0.0f},
    };
    for (const KvType type : {KvType::kF16, KvType::kInt8}) {
        for (const Case& c : cases) {
            if (type == KvType::kInt8 && c.head_dim % kGroup != 0) continue;
            Cache cache(kReferenceKernels, type, c.kv_heads, c.head_dim, c.first + c.rows);
            Cache other(table(), type, c.kv_heads, c.head_dim, c.first + c.rows);
            CHECK(cache.pool == other.pool);
            const std::vector<float> q =
                random_values(static_cast<size_t>(c.rows) * c.heads * c.head_dim, 1.0f, 23);
            const AttentionShape shape = {c.heads, c.rows, c.first, c.window, c.softcap};
            const std::vector<float> expected = attend(kReferenceKernels, cache, q, shape);
            CHECK(kReferenceKernels.all_finite(expected.data(),
                                               static_cast<int64_t>(expected.size())));
            CHECK(same_bits(expected, row_by_row(kReferenceKernels, cache, q, shape)));
            CHECK(same_bits(expected, attend(table(), cache, q, shape)));
            CHECK(same_bits(expected, row_by_row(table(), cache, q, shape)));
        }
    }
}

TEST_CASE("attention against f64") {
    const int32_t heads = 6, kv_heads = 2, head_dim = 64, position = 149, window = 100;
    Cache cache(kReferenceKernels, KvType::kF16, kv_heads, head_dim, position + 1);
    const std::vector<float> q = random_values(heads * head_dim, 0.5f, 31);
    const std::vector<float> out =
        attend(kReferenceKernels, cache, q, {heads, 1, position, window, 0.0f});
    const auto stored = [&](const std::vector<float>& x, int32_t p, int32_t h, int32_t d) {
        return static_cast<double>(
            f32_from_f16(f16_from_f32(x[(p * kv_heads + h) * head_dim + d])));
    };
    double worst = 0.0;
    for (int32_t h = 0; h < heads; ++h) {
        const int32_t kv_head = h / (heads / kv_heads);
        std::vector<double> o(head_dim);
        double l = 0.0;
        for (int32_t p = position - window + 1; p <= position; ++p) {
            double s = 0.0;
            for (int32_t d = 0; d < head_dim; ++d) {
                s += static_cast<double>(q[h * head_dim + d]) * stored(cache.k, p, kv_head, d);
            }
            l += std::exp(s);
            for (int32_t d = 0; d < head_dim; ++d) {
                o[d] += std::exp(s) * stored(cache.v, p, kv_head, d);
            }
        }
        for (int32_t d = 0; d < head_dim; ++d) {
            const double got = static_cast<double>(out[h * head_dim + d]);
            worst = std::max(worst, std::abs(got - o[d] / l));
        }
    }
    // |v| <= 2. A score's chain of 64 products within 64 in sum errs by 64 * 64 * 2^-24 at the very
    // worst, which is relative in p; sums of 100 positions and exp add about 100 roundings.
    CHECK(worst < 2.0 * (2 * 64 * 64 + 100) * 0x1p-24);
}

TEST_CASE("the cache clamps to f16's range and keeps a NaN") {
    const int32_t head_dim = 16;
    for (const Kernels* kernels : {&kReferenceKernels, &table()}) {
        std::vector<uint16_t> pool(2 * kBlockPositions * head_dim);
        std::vector<float> x(head_dim);
        x[0] = 1e9f;
        x[1] = -INFINITY;
        x[2] = NAN;
        x[3] = 0x1p-24f;
        kernels->store_kv({reinterpret_cast<uint8_t*>(pool.data()), 0, 1, head_dim, KvType::kF16},
                          0, 63, x.data(), x.data());
        const uint16_t* v = pool.data() + (kBlockPositions + 63) * head_dim;
        CHECK(v[0] == 0x7bff);
        CHECK(v[1] == 0xfbff);
        CHECK((v[2] & 0x7fff) > 0x7c00);
        CHECK(v[3] == 1);
        for (int32_t d = 0; d < head_dim; ++d) {
            CHECK(pool[d * kBlockPositions + 63] == v[d]);
        }
    }
}

TEST_CASE("int8 keys and values: each group of 32 has its own f16 scale") {
    const int32_t head_dim = 128, offset = 5, groups = head_dim / kGroup;
    std::vector<float> x(head_dim);
    for (int32_t i = 0; i < kGroup; ++i) {
        x[i] = static_cast<float>(i) - 16.0f;
        x[2 * kGroup + i] = 1e-9f;
    }
    x[kGroup] = NAN;
    x[3 * kGroup] = -INFINITY;
    x[3 * kGroup + 1] = 300.0f;
    for (const Kernels* kernels : {&kReferenceKernels, &table()}) {
        std::vector<uint8_t> pool(static_cast<size_t>(kv_head_bytes(KvType::kInt8, head_dim)));
        kernels->store_kv({pool.data(), 0, 1, head_dim, KvType::kInt8}, 0, offset, x.data(),
                          x.data());
        const auto* k = reinterpret_cast<const int8_t*>(pool.data());
        const auto* k_scales = reinterpret_cast<const uint16_t*>(k + kBlockPositions * head_dim);
        const auto* v = reinterpret_cast<const int8_t*>(k_scales + kBlockPositions * groups);
        const auto* v_scales = reinterpret_cast<const uint16_t*>(v + kBlockPositions * head_dim);
        for (int32_t d = 0; d < head_dim; ++d) {
            CHECK(k[d * kBlockPositions + offset] == v[offset * head_dim + d]);
        }
        for (int32_t g = 0; g < groups; ++g) {
            CHECK(k_scales[g * kBlockPositions + offset] == v_scales[offset * groups + g]);
        }
        v += offset * head_dim;
        CHECK(v_scales[offset * groups] == f16_from_f32(16.0f / 127.0f));
        CHECK(v[0] == -127);
        CHECK(v[24] == 64);  // 8 / (16 / 127) would be a tie: f16(16 / 127) is a little less
        CHECK((v_scales[offset * groups + 1] & 0x7fff) > 0x7c00);
        CHECK(v[kGroup] == 0);
        CHECK(v_scales[offset * groups + 2] == 0);
        CHECK(v[2 * kGroup] == 0);
        CHECK(v_scales[offset * groups + 3] == f16_from_f32(65504.0f / 127.0f));
        CHECK(v[3 * kGroup] == -127);
        CHECK(v[3 * kGroup + 1] == 1);
    }
}
