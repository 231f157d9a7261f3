// Rule 8 over the op set V, a tile of queries at a time: a query is a (row, head) pair, and the
// queries of a tile share a kv head, so that each K and V vector is converted once for all of them.
// Nothing of a query's arithmetic depends on its neighbours in the tile.
#pragma once

#include "kernel/lanes/kv_block.hpp"

namespace chatloop::kernel::lanes {

constexpr float kLowest = -0x1.fffffep+127f;  // -FLT_MAX

static inline int32_t at_least(int32_t x, int32_t low) { return x < low ? low : x; }
static inline int32_t at_most(int32_t x, int32_t high) { return x > high ? high : x; }

// T queries in work.
template <class V, int T>
struct Tile {
    float* o[T];         // (head_dim): accumulates in place
    int32_t first[T];    // sees positions [first, end)
    int32_t end[T];
    float m[kLanes];     // by query; lanes beyond T are idle
    float l[kLanes];
    float p[T][kBlockPositions];     // the block's scores, then probabilities
    float q[kHeadDimMax][T];         // transposed: one stream for all queries

    // Vectors that a loop keeps beside each other, so that no fma waits for the one before.
    static constexpr int kUnroll = V::kAccumulators >= 4 * T ? 4 : V::kAccumulators >= 2 * T ? 2 : 1;
};

// p[t][j..] = q_t . k_j for kUnroll vectors of positions from j on.
template <class V, int T, class Block>
void scores(Tile<V, T>& tile, const Block& block, int32_t head_dim) {
    using F = typename V::F;
    constexpr int kUnroll = Tile<V, T>::kUnroll;
    for (int32_t j = 0; j < kBlockPositions; j += kUnroll * kLanes) {
        F acc[kUnroll][T];
        for (auto& row : acc) {
            for (F& lanes : row) {
                lanes = V::set1(0.0f);
            }
        }
        for (int32_t group = 0; group < head_dim; group += kGroup) {
            typename Block::KeyScale scale[kUnroll];
            for (int u = 0; u < kUnroll; ++u) {
                scale[u] = block.key_scale(group, j + u * kLanes);
            }
            const int32_t end = at_most(group + kGroup, head_dim);
            for (int32_t d = group; d < end; ++d) {
                F key[kUnroll];
                for (int u = 0; u < kUnroll; ++u) {
                    key[u] = block.key(d, j + u * kLanes, scale[u]);
                }
                for (int t = 0; t < T; ++t) {
                    const F q = V::set1(tile.q[d][t]);
                    for (int u = 0; u < kUnroll; ++u) {
                        acc[u][t] = V::fma(q, key[u], acc[u][t]);
                    }
                }
            }
        }
        for (int u = 0; u < kUnroll; ++u) {
            for (int t = 0; t < T; ++t) {
                V::store(tile.p[t] + j + u * kLanes, acc[u][t]);
            }
        }
    }
}

// Softcap and mask of one query's scores; gives their maximum.
template <class V>
float mask_scores(float (&s)[kBlockPositions], int32_t first, int32_t end, float cap) {
    const auto lowest = V::set1(kLowest);
    const bool whole = first <= 0 && end >= kBlockPositions;
    auto block_max = lowest;
    for (int32_t j = 0; j < kBlockPositions; j += kLanes) {
        auto score = V::load(s + j);
        if (cap > 0.0f) {
            score = softcap_of<V>(score, V::set1(cap));
        }
        if (!whole) {
            score = V::select_range(first - j, end - j, score, lowest);
        }
        if (!whole || cap > 0.0f) {
            V::store(s + j, score);
        }
        block_max = V::max(block_max, score);
    }
    return V::maximum(block_max);
}

// Scores to probabilities in place; gives their sum.
template <class V>
float to_probabilities(float (&s)[kBlockPositions], int32_t first, int32_t end, float m) {
    const bool whole = first <= 0 && end >= kBlockPositions;
    const auto top = V::set1(m);
    auto sum = V::set1(0.0f);
    for (int32_t j = 0; j < kBlockPositions; j += kLanes) {
        auto p = exp<V>(V::sub(V::load(s + j), top));
        if (!whole) {
            p = V::select_range(first - j, end - j, p, V::set1(0.0f));
        }
        V::store(s + j, p);
        sum = V::add(sum, p);
    }
    return V::sum(sum);
}

// Scores to probabilities for all queries; what was accumulated before is scaled by c.
template <class V, int T>
void softmax_block(Tile<V, T>& tile, int32_t head_dim, int32_t position_base, float cap) {
    float block_max[kLanes] = {}, sum[kLanes] = {}, m_new[kLanes], c[kLanes];
    for (int t = 0; t < T; ++t) {
        block_max[t] = mask_scores<V>(tile.p[t], tile.first[t] - position_base,
                                      tile.end[t] - position_base, cap);
    }
    const auto m_old = V::load(tile.m);
    const auto m = V::max(m_old, V::load(block_max));
    V::store(m_new, m);
    V::store(tile.m, m);
    const auto factor = exp<V>(V::sub(m_old, m));
    V::store(c, factor);
    for (int t = 0; t < T; ++t) {
        sum[t] = to_probabilities<V>(tile.p[t], tile.first[t] - position_base,
                                     tile.end[t] - position_base, m_new[t]);
        if (c[t] != 1.0f) {  // x * 1 is x
            scale<V>(tile.o[t], c[t], head_dim);
        }
    }
    V::store(tile.l, V::fma(V::load(tile.l), factor, V::load(sum)));
}

// kQueries queries from t on and kVectors vectors of dimensions from d on:
// o += sum of p[j] * v_j over positions [first, end) of the block, j ascending.
template <class V, int T, int kQueries, int kVectors, class Block>
void add_values(const Tile<V, T>& tile, int32_t t, const Block& block, int32_t d, int32_t first,
                int32_t end) {
    using F = typename V::F;
    F acc[kQueries][kVectors];
    for (int i = 0; i < kQueries; ++i) {
        for (int u = 0; u < kVectors; ++u) {
            acc[i][u] = V::load(tile.o[t + i] + d + u * kLanes);
        }
    }
    for (int32_t j = first; j < end; ++j) {
        F value[kVectors];
        for (int u = 0; u < kVectors; ++u) {
            value[u] = block.value(j, d + u * kLanes);
        }
        for (int i = 0; i < kQueries; ++i) {
            const F p = V::set1(tile.p[t + i][j]);
            for (int u = 0; u < kVectors; ++u) {
                acc[i][u] = V::fma(p, value[u], acc[i][u]);
            }
        }
    }
    for (int i = 0; i < kQueries; ++i) {
        for (int u = 0; u < kVectors; ++u) {
            V::store(tile.o[t + i] + d + u * kLanes, acc[i][u]);
        }
    }
}

// All dimensions.
template <class V, int T, int kQueries, class Block>
void add_values(const Tile<V, T>& tile, int32_t t, const Block& block, int32_t head_dim,
                int32_t first, int32_t end) {
    constexpr int kUnroll = Tile<V, kQueries>::kUnroll;
    if (first >= end) {
        return;
    }
    int32_t d = 0;
    for (; d + kUnroll * kLanes <= head_dim; d += kUnroll * kLanes) {
        add_values<V, T, kQueries, kUnroll>(tile, t, block, d, first, end);
    }
    for (; d < head_dim; d += kLanes) {
        add_values<V, T, kQueries, 1>(tile, t, block, d, first, end);
    }
}

// A query that does not see the whole of what its tile sees goes on alone: an unseen value may be
// a NaN, which p = 0 would not stop.
template <class V, int T, class Block>
void values(const Tile<V, T>& tile, const Block& block, int32_t head_dim, int32_t position_base) {
    int32_t first[T], end[T];
    int32_t common_first = 0, common_end = kBlockPositions;
    for (int32_t t = 0; t < T; ++t) {
        first[t] = at_least(tile.first[t] - position_base, 0);
        end[t] = at_most(tile.end[t] - position_base, kBlockPositions);
        common_first = at_least(common_first, first[t]);
        common_end = at_most(common_end, end[t]);
    }
    if (common_first >= common_end) {
        for (int32_t t = 0; t < T; ++t) {
            add_values<V, T, 1>(tile, t, block, head_dim, first[t], end[t]);
        }
        return;
    }
    for (int32_t t = 0; t < T; ++t) {
        add_values<V, T, 1>(tile, t, block, head_dim, first[t], common_first);
    }
    add_values<V, T, T>(tile, 0, block, head_dim, common_first, common_end);
    for (int32_t t = 0; t < T; ++t) {
        add_values<V, T, 1>(tile, t, block, head_dim, common_end, end[t]);
    }
}

// What all tiles of a call share.
struct AttentionCall {
    float* out;
    const float* q;
    const KvLayer& kv;
    const uint32_t* table;
    const AttentionShape& shape;
};

// Queries [start, start + T) of one kv head: rows outer, heads inner.
template <class V, KvType kType, int T>
[[gnu::noinline]] void attend_tile(const AttentionCall& call, int32_t kv_head, int32_t start) {
    const int32_t head_dim = call.kv.head_dim;
    const int32_t group = call.shape.n_heads / call.kv.n_kv_heads;
    Tile<V, T> tile;
    V::store(tile.m, V::set1(kLowest));
    V::store(tile.l, V::set1(0.0f));
    int32_t seen_first = INT32_MAX, seen_end = 0;
    for (int32_t t = 0; t < T; ++t) {
        const int32_t row = (start + t) / group;
        const int32_t head = kv_head * group + (start + t) % group;
        const int32_t position = call.shape.position_first + row;
        const bool whole = call.shape.window == 0 || position < call.shape.window;
        const int64_t at = (int64_t{row} * call.shape.n_heads + head) * head_dim;
        tile.o[t] = call.out + at;
        tile.first[t] = whole ? 0 : position - call.shape.window + 1;
        tile.end[t] = position + 1;
        seen_first = at_most(seen_first, tile.first[t]);
        seen_end = at_least(seen_end, tile.end[t]);
        for (int32_t d = 0; d < head_dim; ++d) {
            tile.q[d][t] = call.q[at + d];
        }
        map1<V>(tile.o[t], tile.o[t], head_dim, [](auto) { return V::set1(0.0f); });
    }
    for (int32_t b = seen_first / kBlockPositions; b * kBlockPositions < seen_end; ++b) {
        const KvBlock<V, kType> block(call.kv.base + call.table[b] * call.kv.block_stride +
                                          kv_head * kv_head_bytes(kType, head_dim),
                                      head_dim);
        scores(tile, block, head_dim);
        softmax_block(tile, head_dim, b * kBlockPositions, call.shape.softcap);
        values(tile, block, head_dim, b * kBlockPositions);
    }
    for (int32_t t = 0; t < T; ++t) {
        const auto l = V::set1(tile.l[t]);
        map1<V>(tile.o[t], tile.o[t], head_dim,
                [l](auto o) { return V::add(V::div(o, l), V::set1(0.0f)); });
    }
}

// `count` queries, at most T.
template <class V, KvType kType, int T>
void attend_some(const AttentionCall& call, int32_t kv_head, int32_t start, int32_t count) {
    if constexpr (T > 1) {
        if (count < T) {
            return attend_some<V, kType, T - 1>(call, kv_head, start, count);
        }
    }
    attend_tile<V, kType, T>(call, kv_head, start);
}

template <class V, KvType kType>
void attend(const AttentionCall& call) {
    const int32_t group = call.shape.n_heads / call.kv.n_kv_heads;
    const int32_t queries = call.shape.rows * group;
    for (int32_t kv_head = 0; kv_head < call.kv.n_kv_heads; ++kv_head) {
        for (int32_t start = 0; start < queries; start += V::kTileQueries) {
            attend_some<V, kType, V::kTileQueries>(call, kv_head, start,
                                                   at_most(queries - start, V::kTileQueries));
        }
    }
}

template <class V>
void attention(float* out, const float* q, const KvLayer& kv, const uint32_t* table,
               const AttentionShape& shape) {
    CL_ASSERT(kv.n_kv_heads > 0 && shape.n_heads % kv.n_kv_heads == 0);
    CL_ASSERT(kv.head_dim > 0 && kv.head_dim <= kHeadDimMax);
    CL_ASSERT(kv.head_dim % (kv.type == KvType::kInt8 ? kGroup : kLanes) == 0);
    CL_ASSERT(shape.position_first >= 0 && shape.window >= 0);
    const AttentionCall call = {out, q, kv, table, shape};
    if (kv.type == KvType::kInt8) {
        attend<V, KvType::kInt8>(call);
    } else {
        attend<V, KvType::kF16>(call);
    }
}

}  // namespace chatloop::kernel::lanes
