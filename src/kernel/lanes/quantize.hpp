// Rule 1, rule 4's embedding row and rule 7's writes, over the op set V.
#pragma once

#include "kernel/lanes/elementwise.hpp"

namespace chatloop::kernel::lanes {

template <class V>
void quantize(const QuantizedOut& out, const float* x, int32_t rows, int32_t k) {
    CL_ASSERT(k % kGroup == 0);
    constexpr int32_t kInfinityBits = 0x7f800000;
    const auto abs_mask = V::set1_int(0x7fffffff);
    const auto low = V::set1(-127.0f), high = V::set1(127.0f);
    const int64_t groups = int64_t{rows} * (k / kGroup);
    for (int64_t g = 0; g < groups; ++g, x += kGroup) {
        int8_t* q = out.q + g * kGroup;
        const auto x0 = V::load(x), x1 = V::load(x + kLanes);
        const int32_t bits = V::maximum_int(V::max_int(V::and_int(V::bits(x0), abs_mask),
                                                       V::and_int(V::bits(x1), abs_mask)));
        const float amax = __builtin_bit_cast(float, bits);
        if (bits >= kInfinityBits || amax < 1e-30f) {
            V::store_i8(q, V::set1_int(0));
            V::store_i8(q + kLanes, V::set1_int(0));
            out.d[g] = out.sa[g] = bits >= kInfinityBits ? __builtin_nanf("") : 0.0f;
            out.sum[g] = 0;
            continue;
        }
        const auto id = V::set1(127.0f / amax);
        const auto q0 = V::round(V::min(high, V::max(low, V::mul(x0, id))));
        const auto q1 = V::round(V::min(high, V::max(low, V::mul(x1, id))));
        V::store_i8(q, q0);
        V::store_i8(q + kLanes, q1);
        out.d[g] = amax / 127.0f;
        out.sum[g] = V::sum_int(V::add_int(q0, q1));
        out.sa[g] = static_cast<float>(out.sum[g]) * out.d[g];
    }
}

// Half a group: 16 quants as floats, before scale and minimum.
template <class V>
typename V::F embed_quants(const EmbeddingTable& table, int64_t group, int32_t half) {
    if (table.type == WeightType::kQ8) {
        const auto* q = static_cast<const int8_t*>(table.values);
        return V::to_float(V::load_i8(q + group * kGroup + half * kLanes));
    }
    const auto* bytes = static_cast<const uint8_t*>(table.values) + group * (kGroup / 2);
    const auto both = V::load_u8(bytes);
    const auto q = half == 0 ? V::and_int(both, V::set1_int(15)) : V::template shift_right<4>(both);
    const int32_t zero_point = table.type == WeightType::kQ4 ? 8 : 0;
    return V::to_float(V::add_int(q, V::set1_int(-zero_point)));
}

// One f16 in every lane.
template <class V>
typename V::F set1_f16(uint16_t half) {
    uint16_t full[kLanes];
    for (uint16_t& value : full) {
        value = half;
    }
    return V::load_f16(full);
}

template <class V>
void embed_quantized(float* out, const EmbeddingTable& table, int64_t id) {
    CL_ASSERT(table.k % kGroup == 0);
    const int64_t groups = table.k / kGroup;
    const bool has_minimum = table.type == WeightType::kQ4Min;
    for (int64_t g = id * groups; g < (id + 1) * groups; ++g) {
        const uint16_t* line = table.scales + (has_minimum ? 2 * g : g);
        const auto d = set1_f16<V>(line[0]);
        const auto minimum = set1_f16<V>(has_minimum ? line[1] : uint16_t{0});
        for (int32_t half = 0; half < 2; ++half, out += kLanes) {
            const auto q = embed_quants<V>(table, g, half);
            V::store(out, has_minimum ? V::fma(d, q, minimum) : V::mul(d, q));
        }
    }
}

template <class V>
void embed(float* out, const EmbeddingTable& table, int32_t id) {
    CL_ASSERT(id >= 0 && id < table.vocab);
    if (is_quantized(table.type)) {
        embed_quantized<V>(out, table, id);
        return;
    }
    const int64_t first = int64_t{id} * table.k;
    if (table.type == WeightType::kF32) {
        const float* row = static_cast<const float*>(table.values) + first;
        map1<V>(out, row, table.k, [](auto x) { return x; });
        return;
    }
    const uint16_t* row = static_cast<const uint16_t*>(table.values) + first;
    for (int32_t k = 0; k < table.k; k += kLanes) {
        const int32_t n = table.k - k < kLanes ? table.k - k : kLanes;
        uint16_t part[kLanes] = {};
        for (int32_t i = 0; i < n; ++i) {
            part[i] = row[k + i];
        }
        const bool f16 = table.type == WeightType::kF16;
        store_n<V>(out + k, f16 ? V::load_f16(part) : V::load_bf16(part), n);
    }
}

template <class V>
void store_kv(const KvLayer& kv, uint32_t block, int32_t offset, const float* k, const float* v) {
    CL_ASSERT(offset >= 0 && offset < kBlockPositions);
    CL_ASSERT(kv.head_dim % kLanes == 0);
    const auto low = V::set1(-65504.0f), high = V::set1(65504.0f);
    uint16_t* k_block = kv.base + block * kv.block_stride;
    for (int32_t h = 0; h < kv.n_kv_heads; ++h) {
        uint16_t* v_row = k_block + (kBlockPositions + offset) * kv.head_dim;
        for (int32_t d = 0; d < kv.head_dim; d += kLanes, k += kLanes, v += kLanes) {
            uint16_t column[kLanes];
            V::store_f16(column, V::min(high, V::max(low, V::load(k))));
            for (int32_t i = 0; i < kLanes; ++i) {
                k_block[(d + i) * kBlockPositions + offset] = column[i];
            }
            V::store_f16(v_row + d, V::min(high, V::max(low, V::load(v))));
        }
        k_block += int64_t{2} * kBlockPositions * kv.head_dim;
    }
}

}  // namespace chatloop::kernel::lanes
