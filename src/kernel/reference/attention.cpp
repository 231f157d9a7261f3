// Rules 7 and 8: the KV cache in f16, and attention over it block by block.
#include <cfloat>
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "kernel/reference/f16.hpp"
#include "kernel/reference/reference.hpp"

namespace chatloop::kernel::reference {

namespace {

constexpr float kF16Max = 65504.0f;

uint16_t kv_value(float x) {
    return f16_from_f32(clamp(x, -kF16Max, kF16Max));
}

// One block of one head: K^T (head_dim, 64), then V (64, head_dim).
uint16_t* block_of(const KvLayer& kv, uint32_t block, int32_t kv_head) {
    const int64_t head_elements = int64_t{2} * kBlockPositions * kv.head_dim;
    return kv.base + block * kv.block_stride + kv_head * head_elements;
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

void attend_block(Softmax& state, float* o, const float* q, const uint16_t* block, int32_t head_dim,
                  int32_t position_base, Range seen, float cap) {
    float s[kBlockPositions];
    Lanes block_max(-FLT_MAX);
    for (int32_t j = 0; j < kBlockPositions; ++j) {
        float score = 0.0f;
        for (int32_t d = 0; d < head_dim; ++d) {
            score = std::fma(q[d], f32_from_f16(block[d * kBlockPositions + j]), score);
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

    const uint16_t* v = block + kBlockPositions * head_dim;
    for (int32_t d = 0; d < head_dim; ++d) {
        float acc = o[d] * c;
        // An invisible position has p = +0: it could change nothing but a NaN or a zero's sign.
        for (int32_t j = 0; j < kBlockPositions; ++j) {
            if (seen.has(position_base + j)) {
                acc = std::fma(s[j], f32_from_f16(v[j * head_dim + d]), acc);
            }
        }
        o[d] = acc;
    }
}

}  // namespace

void store_kv(const KvLayer& kv, uint32_t block, int32_t offset, const float* k, const float* v) {
    CL_ASSERT(offset >= 0 && offset < kBlockPositions);
    for (int32_t h = 0; h < kv.n_kv_heads; ++h) {
        uint16_t* k_block = block_of(kv, block, h);
        uint16_t* v_block = k_block + kBlockPositions * kv.head_dim;
        for (int32_t d = 0; d < kv.head_dim; ++d) {
            k_block[d * kBlockPositions + offset] = kv_value(k[h * kv.head_dim + d]);
            v_block[offset * kv.head_dim + d] = kv_value(v[h * kv.head_dim + d]);
        }
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
                attend_block(state, out, q, block_of(kv, table[b], h / group), head_dim,
                             b * kBlockPositions, seen, shape.softcap);
            }
            for (int32_t d = 0; d < head_dim; ++d) {
                out[d] = out[d] / state.l + 0.0f;
            }
        }
    }
}

}  // namespace chatloop::kernel::reference
