// Rules 7 and 8: the KV cache, and attention over it block by block.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "kernel/reference/f16.hpp"
#include "kernel/reference/reference.hpp"

namespace chatloop::kernel::reference {

namespace {

constexpr float kF16Max = 65504.0f;

// K and V of one kv head in one block, read and written value by value (layout: kv_head_bytes).
class Block {
public:
    Block(const KvLayer& kv, uint32_t block, int32_t kv_head)
        : type_(kv.type),
          head_dim_(kv.head_dim),
          k_(kv.base + block * kv.block_stride + kv_head * kv_head_bytes(kv.type, kv.head_dim)),
          v_(k_ + kv_head_bytes(kv.type, kv.head_dim) / 2) {}

    float k(int32_t d, int32_t j) const {
        return value(k_, d * kBlockPositions + j, d / kGroup * kBlockPositions + j);
    }
    float v(int32_t j, int32_t d) const {
        return value(v_, j * head_dim_ + d, j * (head_dim_ / kGroup) + d / kGroup);
    }
    void store(int32_t j, const float* k, const float* v);

private:
    // Element i of K or V, whose scale is s.
    float value(const uint8_t* part, int32_t i, int32_t s) const {
        if (type_ == KvType::kF16) {
            return f32_from_f16(reinterpret_cast<const uint16_t*>(part)[i]);
        }
        const auto* scales = reinterpret_cast<const uint16_t*>(part + scales_at());
        return static_cast<float>(reinterpret_cast<const int8_t*>(part)[i]) *
               f32_from_f16(scales[s]);
    }
    int64_t scales_at() const { return int64_t{kBlockPositions} * head_dim_; }  // in a part
    void store_value(uint8_t* part, int32_t i, int32_t s, float x, float amax);

    KvType type_;
    int32_t head_dim_;
    uint8_t* k_;
    uint8_t* v_;
};

// Rule 7; `amax` is the maximum of the value's group of 32, which the f16 form does not need.
void Block::store_value(uint8_t* part, int32_t i, int32_t s, float x, float amax) {
    const float kept = clamp(x, -kF16Max, kF16Max);
    if (type_ == KvType::kF16) {
        reinterpret_cast<uint16_t*>(part)[i] = f16_from_f32(kept);
        return;
    }
    const uint16_t scale = f16_from_f32(amax / 127.0f);
    const float d = f32_from_f16(scale);
    float q = 0.0f;
    if (d > 0.0f) {  // not for a NaN
        q = clamp(std::nearbyint(kept / d), -127.0f, 127.0f);
    }
    reinterpret_cast<int8_t*>(part)[i] = static_cast<int8_t>(q);
    reinterpret_cast<uint16_t*>(part + scales_at())[s] = scale;
}

float amax_of(const float* x) {
    int32_t bits = 0;
    for (int32_t i = 0; i < kGroup; ++i) {
        const float kept = clamp(x[i], -kF16Max, kF16Max);
        bits = std::max(bits, std::bit_cast<int32_t>(kept) & 0x7fffffff);
    }
    return std::bit_cast<float>(bits);
}

void Block::store(int32_t j, const float* k, const float* v) {
    float k_amax = 0.0f, v_amax = 0.0f;
    for (int32_t d = 0; d < head_dim_; ++d) {
        if (type_ == KvType::kInt8 && d % kGroup == 0) {
            k_amax = amax_of(k + d);
            v_amax = amax_of(v + d);
        }
        store_value(k_, d * kBlockPositions + j, d / kGroup * kBlockPositions + j, k[d], k_amax);
        store_value(v_, j * head_dim_ + d, j * (head_dim_ / kGroup) + d / kGroup, v[d], v_amax);
    }
}

// Positions [first, end) that a row sees.
struct Range {
    int32_t first;
    int32_t end;

    bool has(int32_t position) const { return position >= first && position < end; }
};

struct Softmax {
    float m = -FLT_MAX;
    float l = 0.0f;
};

void attend_block(Softmax& state, float* o, const float* q, const Block& block, int32_t head_dim,
                  int32_t position_base, Range seen, float cap) {
    float s[kBlockPositions];
    Lanes block_max(-FLT_MAX);
    for (int32_t j = 0; j < kBlockPositions; ++j) {
        float score = 0.0f;
        for (int32_t d = 0; d < head_dim; ++d) {
            score = std::fma(q[d], block.k(d, j), score);
        }
        score = cap > 0.0f ? softcap_of(score, cap) : score;
        s[j] = seen.has(position_base + j) ? score : -FLT_MAX;
        float& lane = block_max.lane[j % kLanes];
        lane = max_of(lane, s[j]);
    }

    const float m_new = max_of(state.m, tree16_max(block_max));
    const float c = exp(state.m - m_new);
    Lanes sum(0.0f);
    for (int32_t j = 0; j < kBlockPositions; ++j) {
        s[j] = seen.has(position_base + j) ? exp(s[j] - m_new) : 0.0f;
        sum.lane[j % kLanes] += s[j];
    }
    state.m = m_new;
    state.l = std::fma(state.l, c, tree16(sum));

    for (int32_t d = 0; d < head_dim; ++d) {
        float acc = o[d] * c;
        // An invisible position has p = +0: it could change nothing but a NaN or a zero's sign.
        for (int32_t j = 0; j < kBlockPositions; ++j) {
            if (seen.has(position_base + j)) {
                acc = std::fma(s[j], block.v(j, d), acc);
            }
        }
        o[d] = acc;
    }
}

}  // namespace

void store_kv(const KvLayer& kv, uint32_t block, int32_t offset, const float* k, const float* v) {
    CL_ASSERT(offset >= 0 && offset < kBlockPositions);
    CL_ASSERT(kv.type == KvType::kF16 || kv.head_dim % kGroup == 0);
    for (int32_t h = 0; h < kv.n_kv_heads; ++h) {
        Block(kv, block, h).store(offset, k + h * kv.head_dim, v + h * kv.head_dim);
    }
}

void attention(float* out, const float* q, const KvLayer& kv, const uint32_t* table,
               const AttentionShape& shape) {
    CL_ASSERT(kv.n_kv_heads > 0 && shape.n_heads % kv.n_kv_heads == 0);
    CL_ASSERT(kv.head_dim > 0 && kv.head_dim % kLanes == 0);
    CL_ASSERT(shape.position_first >= 0 && shape.window >= 0);
    const int32_t group = shape.n_heads / kv.n_kv_heads;
    const int32_t head_dim = kv.head_dim;
    for (int32_t r = 0; r < shape.rows; ++r) {
        const int32_t position = shape.position_first + r;
        const bool whole = shape.window == 0 || position < shape.window;
        const Range seen = {whole ? 0 : position - shape.window + 1, position + 1};
        for (int32_t h = 0; h < shape.n_heads; ++h, q += head_dim, out += head_dim) {
            Softmax state;
            for (int32_t d = 0; d < head_dim; ++d) {
                out[d] = 0.0f;
            }
            for (int32_t b = seen.first / kBlockPositions; b * kBlockPositions < seen.end; ++b) {
                attend_block(state, out, q, Block(kv, table[b], h / group), head_dim,
                             b * kBlockPositions, seen, shape.softcap);
            }
            for (int32_t d = 0; d < head_dim; ++d) {
                out[d] = out[d] / state.l + 0.0f;
            }
        }
    }
}

}  // namespace chatloop::kernel::reference
