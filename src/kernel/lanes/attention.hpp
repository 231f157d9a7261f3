// Rule 8 over the op set V, a tile of queries at a time: a query is a (row, head) pair, and the
// queries of a tile share a kv head, so that each K and V vector is converted once for all of them.
// Nothing of a query's arithmetic depends on its neighbours in the tile.
#pragma once

#include "kernel/lanes/elementwise.hpp"

namespace chatloop::kernel::lanes {

constexpr int32_t kTileQueries = 6;  // 12 accumulators of 8 lanes: what AVX2's registers hold
constexpr float kLowest = -0x1.fffffep+127f;  // -FLT_MAX

struct Query {
    const float* q;  // (head_dim)
    float* o;        // (head_dim): accumulates in place
    int32_t first;   // sees positions [first, end)
    int32_t end;
    float m;
    float l;
};

static inline int32_t at_least(int32_t x, int32_t low) { return x < low ? low : x; }
static inline int32_t at_most(int32_t x, int32_t high) { return x > high ? high : x; }

// s[t][0..64) = q_t . k_j over the transposed block.
template <class V, int T>
void scores(float (&s)[T][kBlockPositions], const Query* tile, const uint16_t* k,
            int32_t head_dim) {
    for (int32_t j = 0; j < kBlockPositions; j += kLanes) {
        typename V::F acc[T];
        for (int32_t t = 0; t < T; ++t) {
            acc[t] = V::set1(0.0f);
        }
        for (int32_t d = 0; d < head_dim; ++d) {
            const auto key = V::load_f16(k + d * kBlockPositions + j);
            for (int32_t t = 0; t < T; ++t) {
                acc[t] = V::fma(V::set1(tile[t].q[d]), key, acc[t]);
            }
        }
        for (int32_t t = 0; t < T; ++t) {
            V::store(s[t] + j, acc[t]);
        }
    }
}

// Scores to probabilities in place; returns c, the factor for what was accumulated before.
template <class V>
float softmax_block(float (&s)[kBlockPositions], Query& query, int32_t position_base, float cap) {
    const int32_t first = query.first - position_base;
    const int32_t end = query.end - position_base;
    const auto lowest = V::set1(kLowest);
    auto block_max = lowest;
    for (int32_t j = 0; j < kBlockPositions; j += kLanes) {
        auto score = V::load(s + j);
        if (cap > 0.0f) {
            score = softcap_of<V>(score, V::set1(cap));
        }
        score = V::select_range(first - j, end - j, score, lowest);
        V::store(s + j, score);
        block_max = V::max(block_max, score);
    }

    const auto m_old = V::set1(query.m);
    const auto m_new = V::max(m_old, V::set1(V::maximum(block_max)));
    float c[kLanes], m[kLanes];
    V::store(c, exp<V>(V::sub(m_old, m_new)));
    V::store(m, m_new);
    auto sum = V::set1(0.0f);
    for (int32_t j = 0; j < kBlockPositions; j += kLanes) {
        const auto p = exp<V>(V::sub(V::load(s + j), m_new));
        const auto visible = V::select_range(first - j, end - j, p, V::set1(0.0f));
        V::store(s + j, visible);
        sum = V::add(sum, visible);
    }
    query.m = m[0];
    query.l = __builtin_fmaf(query.l, c[0], V::sum(sum));
    return c[0];
}

// o_t += sum of p_t[j] * v_j over positions [first, end) of the block, j ascending.
template <class V, int T>
void add_values(const Query* tile, const float (*p)[kBlockPositions], const uint16_t* v,
                int32_t head_dim, int32_t first, int32_t end) {
    for (int32_t d = 0; d < head_dim && first < end; d += kLanes) {
        typename V::F acc[T];
        for (int32_t t = 0; t < T; ++t) {
            acc[t] = V::load(tile[t].o + d);
        }
        for (int32_t j = first; j < end; ++j) {
            const auto value = V::load_f16(v + j * head_dim + d);
            for (int32_t t = 0; t < T; ++t) {
                acc[t] = V::fma(V::set1(p[t][j]), value, acc[t]);
            }
        }
        for (int32_t t = 0; t < T; ++t) {
            V::store(tile[t].o + d, acc[t]);
        }
    }
}

// A query that does not see the whole of what its tile sees goes on alone: an unseen value may be
// a NaN, which p = 0 would not stop.
template <class V, int T>
void values(const Query* tile, const float (&p)[T][kBlockPositions], const uint16_t* v,
            int32_t head_dim, int32_t position_base) {
    int32_t first[T], end[T];
    int32_t common_first = 0, common_end = kBlockPositions;
    for (int32_t t = 0; t < T; ++t) {
        first[t] = at_least(tile[t].first - position_base, 0);
        end[t] = at_most(tile[t].end - position_base, kBlockPositions);
        common_first = at_least(common_first, first[t]);
        common_end = at_most(common_end, end[t]);
    }
    if (common_first >= common_end) {
        for (int32_t t = 0; t < T; ++t) {
            add_values<V, 1>(tile + t, p + t, v, head_dim, first[t], end[t]);
        }
        return;
    }
    for (int32_t t = 0; t < T; ++t) {
        add_values<V, 1>(tile + t, p + t, v, head_dim, first[t], common_first);
    }
    add_values<V, T>(tile, p, v, head_dim, common_first, common_end);
    for (int32_t t = 0; t < T; ++t) {
        add_values<V, 1>(tile + t, p + t, v, head_dim, common_end, end[t]);
    }
}

template <class V, int T>
void attend_tile(Query* tile, const KvLayer& kv, int32_t kv_head, const uint32_t* table,
                 float cap) {
    const int32_t head_dim = kv.head_dim;
    int32_t seen_first = tile[0].first, seen_end = tile[0].end;
    for (int32_t t = 0; t < T; ++t) {
        seen_first = at_most(seen_first, tile[t].first);
        seen_end = at_least(seen_end, tile[t].end);
        map1<V>(tile[t].o, tile[t].o, head_dim, [](auto) { return V::set1(0.0f); });
    }
    for (int32_t b = seen_first / kBlockPositions; b * kBlockPositions < seen_end; ++b) {
        const uint16_t* k = kv.base + table[b] * kv.block_stride +
                            int64_t{kv_head} * 2 * kBlockPositions * head_dim;
        float p[T][kBlockPositions];
        scores<V, T>(p, tile, k, head_dim);
        for (int32_t t = 0; t < T; ++t) {
            const float factor = softmax_block<V>(p[t], tile[t], b * kBlockPositions, cap);
            scale<V>(tile[t].o, factor, head_dim);
        }
        values<V, T>(tile, p, k + kBlockPositions * head_dim, head_dim, b * kBlockPositions);
    }
    for (int32_t t = 0; t < T; ++t) {
        const auto l = V::set1(tile[t].l);
        map1<V>(tile[t].o, tile[t].o, head_dim,
                [l](auto o) { return V::add(V::div(o, l), V::set1(0.0f)); });
    }
}

template <class V>
void attention(float* out, const float* q, const KvLayer& kv, const uint32_t* table,
               const AttentionShape& shape) {
    CL_ASSERT(kv.n_kv_heads > 0 && shape.n_heads % kv.n_kv_heads == 0);
    CL_ASSERT(kv.head_dim > 0 && kv.head_dim % kLanes == 0);
    CL_ASSERT(shape.position_first >= 0 && shape.window >= 0);
    const int32_t group = shape.n_heads / kv.n_kv_heads;
    const int32_t queries = shape.rows * group;  // of one kv head: rows outer, heads inner
    for (int32_t kv_head = 0; kv_head < kv.n_kv_heads; ++kv_head) {
        for (int32_t start = 0; start < queries; start += kTileQueries) {
            const int32_t count = at_most(queries - start, kTileQueries);
            Query tile[kTileQueries];
            for (int32_t t = 0; t < count; ++t) {
                const int32_t row = (start + t) / group;
                const int32_t head = kv_head * group + (start + t) % group;
                const int32_t position = shape.position_first + row;
                const bool whole = shape.window == 0 || position < shape.window;
                const int64_t at = (int64_t{row} * shape.n_heads + head) * kv.head_dim;
                tile[t] = {q + at, out + at, whole ? 0 : position - shape.window + 1, position + 1,
                           kLowest, 0.0f};
            }
            switch (count) {
                case 1: attend_tile<V, 1>(tile, kv, kv_head, table, shape.softcap); break;
                case 2: attend_tile<V, 2>(tile, kv, kv_head, table, shape.softcap); break;
                case 3: attend_tile<V, 3>(tile, kv, kv_head, table, shape.softcap); break;
                case 4: attend_tile<V, 4>(tile, kv, kv_head, table, shape.softcap); break;
                case 5: attend_tile<V, 5>(tile, kv, kv_head, table, shape.softcap); break;
                default: attend_tile<V, 6>(tile, kv, kv_head, table, shape.softcap); break;
            }
        }
    }
}

}  // namespace chatloop::kernel::lanes
