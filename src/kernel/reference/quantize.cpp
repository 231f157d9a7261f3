// Rule 1, and rule 4's embedding row, which undoes the same groups.
#include <bit>
#include <cmath>
#include <limits>

#include "chatloop/core/assert.hpp"
#include "kernel/reference/f16.hpp"
#include "kernel/reference/reference.hpp"

namespace chatloop::kernel::reference {

namespace {

constexpr int32_t kInfinityBits = 0x7f800000;

int32_t amax_bits(const float* x) {
    int32_t maximum = 0;
    for (int32_t i = 0; i < kGroup; ++i) {
        const int32_t bits = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
        maximum = bits > maximum ? bits : maximum;
    }
    return maximum;
}

void quantize_group(int8_t* q, float& d, int32_t& sum, float& sa, const float* x) {
    const int32_t bits = amax_bits(x);
    const float amax = std::bit_cast<float>(bits);
    sum = 0;
    if (bits >= kInfinityBits || amax < 1e-30f) {
        for (int32_t i = 0; i < kGroup; ++i) {
            q[i] = 0;
        }
        d = bits >= kInfinityBits ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
        sa = d;
        return;
    }
    d = amax / 127.0f;
    const float id = 127.0f / amax;
    for (int32_t i = 0; i < kGroup; ++i) {
        q[i] = static_cast<int8_t>(clamp(std::nearbyint(x[i] * id), -127.0f, 127.0f));
        sum += q[i];
    }
    sa = static_cast<float>(sum) * d;
}

// Element k of row `id` of a quantized table.
float embed_quantized(const EmbeddingTable& table, int64_t id, int32_t k) {
    const int64_t group = id * (table.k / kGroup) + k / kGroup;
    if (table.type == WeightType::kQ8) {
        const int8_t q = static_cast<const int8_t*>(table.values)[id * table.k + k];
        return f32_from_f16(table.scales[group]) * static_cast<float>(q);
    }
    const int32_t in_group = k % kGroup;
    const uint8_t byte = static_cast<const uint8_t*>(table.values)[group * 16 + in_group % 16];
    const int32_t q = in_group < 16 ? byte & 15 : byte >> 4;
    if (table.type == WeightType::kQ4) {
        return f32_from_f16(table.scales[group]) * static_cast<float>(q - 8);
    }
    return std::fma(f32_from_f16(table.scales[2 * group]), static_cast<float>(q),
                    f32_from_f16(table.scales[2 * group + 1]));
}

float embed_float(const EmbeddingTable& table, int64_t index) {
    switch (table.type) {
        case WeightType::kF16:
            return f32_from_f16(static_cast<const uint16_t*>(table.values)[index]);
        case WeightType::kBf16:
            return f32_from_bf16(static_cast<const uint16_t*>(table.values)[index]);
        default: return static_cast<const float*>(table.values)[index];
    }
}

}  // namespace

void quantize(const QuantizedOut& out, const float* x, int32_t rows, int32_t k) {
    CL_ASSERT(k % kGroup == 0);
    for (int32_t row = 0; row < rows; ++row) {
        for (int32_t g = 0; g < k / kGroup; ++g, x += kGroup) {
            const int64_t at = quantized_group(rows, k / kGroup, row, g);
            quantize_group(out.q + at * kGroup, out.d[at], out.sum[at], out.sa[at], x);
        }
    }
}

void embed(float* out, const EmbeddingTable& table, int32_t id) {
    CL_ASSERT(id >= 0 && id < table.vocab);
    CL_ASSERT(!is_quantized(table.type) || table.k % kGroup == 0);
    for (int32_t k = 0; k < table.k; ++k) {
        out[k] = is_quantized(table.type) ? embed_quantized(table, id, k)
                                          : embed_float(table, int64_t{id} * table.k + k);
    }
}

}  // namespace chatloop::kernel::reference
