// Rule 1 and rule 4's embedding row, over the op set V.
#pragma once

#include "kernel/lanes/elementwise.hpp"

namespace chatloop::kernel::lanes {

// |x| as an integer orders like |x|, with infinity and the NaNs at the top.
template <class V>
typename V::I abs_bits(typename V::F x) {
    return V::and_int(V::bits(x), V::set1_int(0x7fffffff));
}

// 16 groups at a time, so that their divisions and sums are vectors; `amax` and `sum` have a lane
// per group.
struct GroupBatch {
    const float* x[kLanes];
    float amax[kLanes];
    float id[kLanes];
    int32_t sum[kLanes];
};

template <class V>
void quantize_batch(const QuantizedOut& out, GroupBatch& batch, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        const auto amax = V::max_int(abs_bits<V>(V::load(batch.x[i])),
                                     abs_bits<V>(V::load(batch.x[i] + kLanes)));
        batch.amax[i] = __builtin_bit_cast(float, V::maximum_int(amax));
    }
    // Not below 1e-30 is not yet finite: infinity gives id = 0, and its group is written below.
    const auto amax = V::load(batch.amax);
    const auto tiny = V::set1(1e-30f), zero = V::set1(0.0f), steps = V::set1(127.0f);
    V::store(batch.id, V::select_less(amax, tiny, zero, V::div(steps, amax)));
    float d[kLanes], sa[kLanes];
    const auto scales = V::select_less(amax, tiny, zero, V::div(amax, steps));
    V::store(d, scales);
    const auto low = V::set1(-127.0f);
    for (int32_t i = 0; i < count; ++i) {
        int8_t* q = out.q + i * kGroup;
        const auto id = V::set1(batch.id[i]);
        const auto q0 = V::mul(V::load(batch.x[i]), id);
        const auto q1 = V::mul(V::load(batch.x[i] + kLanes), id);
        const auto low_half = V::round(V::min(steps, V::max(low, q0)));
        const auto high_half = V::round(V::min(steps, V::max(low, q1)));
        V::store_i8(q, low_half);
        V::store_i8(q + kLanes, high_half);
        batch.sum[i] = V::sum_int(V::add_int(low_half, high_half));
    }
    V::store(sa, V::mul(V::to_float(V::load_int(batch.sum)), scales));
    for (int32_t i = 0; i < count; ++i) {
        if (!(batch.amax[i] < __builtin_inff())) {
            V::store_i8(out.q + i * kGroup, V::set1_int(0));
            V::store_i8(out.q + i * kGroup + kLanes, V::set1_int(0));
            batch.sum[i] = 0;
            d[i] = sa[i] = __builtin_nanf("");
        }
        out.d[i] = d[i];
        out.sum[i] = batch.sum[i];
        out.sa[i] = sa[i];
    }
}

template <class V>
void quantize(const QuantizedOut& out, const float* x, int32_t rows, int32_t k) {
    CL_ASSERT(k % kGroup == 0);
    GroupBatch batch = {};
    int64_t done = 0;
    int32_t count = 0;
    const auto flush = [&] {
        quantize_batch<V>({out.q + done * kGroup, out.d + done, out.sum + done, out.sa + done},
                          batch, count);
        done += count;
        count = 0;
    };
    for (int32_t tile = 0; tile < rows; tile += kTileRows) {  // the order of quantized_group
        const int32_t end = rows - tile < kTileRows ? rows : tile + kTileRows;
        for (int32_t at = 0; at < k; at += kGroup) {
            for (int32_t row = tile; row < end; ++row) {
                batch.x[count] = x + int64_t{row} * k + at;
                if (++count == kLanes) {
                    flush();
                }
            }
        }
    }
    flush();
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

template <class V>
void embed_quantized(float* out, const EmbeddingTable& table, int64_t id) {
    CL_ASSERT(table.k % kGroup == 0);
    const int64_t groups = table.k / kGroup;
    const bool has_minimum = table.type == WeightType::kQ4Min;
    for (int64_t g = id * groups; g < (id + 1) * groups; ++g) {
        const uint16_t* line = table.scales + (has_minimum ? 2 * g : g);
        const auto d = V::set1_f16(line[0]);
        const auto minimum = V::set1_f16(has_minimum ? line[1] : uint16_t{0});
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

}  // namespace chatloop::kernel::lanes
