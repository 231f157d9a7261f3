// Rule 7: one kv head of one KV block. A position is stored; attention reads 16 positions of a key
// dimension and 16 dimensions of a value, as floats. The layout is kv_head_bytes'.
#pragma once

#include "kernel/lanes/quantize.hpp"

namespace chatloop::kernel::lanes {

template <class V>
typename V::F clamp_to_f16(const float* x) {
    return V::min(V::set1(65504.0f), V::max(V::set1(-65504.0f), V::load(x)));
}

// 32 dims as int8; gives their scale (f16 bits).
template <class V>
uint16_t quantize_kv(int8_t (&q)[kGroup], const float* x) {
    const auto x0 = clamp_to_f16<V>(x), x1 = clamp_to_f16<V>(x + kLanes);
    const int32_t bits = V::maximum_int(V::max_int(abs_bits<V>(x0), abs_bits<V>(x1)));
    uint16_t scales[kLanes];
    V::store_f16(scales, V::set1(__builtin_bit_cast(float, bits) / 127.0f));
    const auto d = V::load_f16(scales);
    if ((scales[0] & 0x7fff) == 0 || (scales[0] & 0x7fff) > 0x7c00) {
        V::store_i8(q, V::set1_int(0));
        V::store_i8(q + kLanes, V::set1_int(0));
        return scales[0];
    }
    const auto low = V::set1(-127.0f), high = V::set1(127.0f);
    V::store_i8(q, V::round(V::min(high, V::max(low, V::div(x0, d)))));
    V::store_i8(q + kLanes, V::round(V::min(high, V::max(low, V::div(x1, d)))));
    return scales[0];
}

template <class V, KvType kType>
class KvBlock;

template <class V>
class KvBlock<V, KvType::kF16> {
public:
    KvBlock(uint8_t* head, int32_t head_dim)
        : head_dim_(head_dim),
          k_(reinterpret_cast<uint16_t*>(head)),
          v_(k_ + kBlockPositions * head_dim) {}

    // k and v (head_dim) of position j.
    void store(int32_t j, const float* k, const float* v) const {
        for (int32_t d = 0; d < head_dim_; d += kLanes) {
            uint16_t column[kLanes];
            V::store_f16(column, clamp_to_f16<V>(k + d));
            for (int32_t i = 0; i < kLanes; ++i) {
                k_[(d + i) * kBlockPositions + j] = column[i];
            }
            V::store_f16(v_ + j * head_dim_ + d, clamp_to_f16<V>(v + d));
        }
    }

    struct KeyScale {};
    KeyScale key_scale(int32_t, int32_t) const { return {}; }
    typename V::F key(int32_t d, int32_t j, KeyScale) const {
        return V::load_f16(k_ + d * kBlockPositions + j);
    }
    typename V::F value(int32_t j, int32_t d) const { return V::load_f16(v_ + j * head_dim_ + d); }

private:
    int32_t head_dim_;
    uint16_t* k_;
    uint16_t* v_;
};

template <class V>
class KvBlock<V, KvType::kInt8> {
public:
    KvBlock(uint8_t* head, int32_t head_dim)
        : head_dim_(head_dim),
          groups_(head_dim / kGroup),
          k_(reinterpret_cast<int8_t*>(head)),
          k_scales_(reinterpret_cast<uint16_t*>(k_ + kBlockPositions * head_dim)),
          v_(reinterpret_cast<int8_t*>(k_scales_ + kBlockPositions * groups_)),
          v_scales_(reinterpret_cast<uint16_t*>(v_ + kBlockPositions * head_dim)) {}

    void store(int32_t j, const float* k, const float* v) const {
        for (int32_t g = 0; g < groups_; ++g) {
            int8_t q[kGroup];
            k_scales_[g * kBlockPositions + j] = quantize_kv<V>(q, k + g * kGroup);
            for (int32_t i = 0; i < kGroup; ++i) {
                k_[(g * kGroup + i) * kBlockPositions + j] = q[i];
            }
            v_scales_[j * groups_ + g] = quantize_kv<V>(q, v + g * kGroup);
            __builtin_memcpy(v_ + j * head_dim_ + g * kGroup, q, sizeof(q));
        }
    }

    // Of 16 positions from j on, for the 32 dimensions that d is one of.
    using KeyScale = typename V::F;
    KeyScale key_scale(int32_t d, int32_t j) const {
        return V::load_f16(k_scales_ + d / kGroup * kBlockPositions + j);
    }
    typename V::F key(int32_t d, int32_t j, KeyScale scale) const {
        return V::mul(V::to_float(V::load_i8(k_ + d * kBlockPositions + j)), scale);
    }
    typename V::F value(int32_t j, int32_t d) const {
        const auto scale = V::set1_f16(v_scales_[j * groups_ + d / kGroup]);
        return V::mul(V::to_float(V::load_i8(v_ + j * head_dim_ + d)), scale);
    }

private:
    int32_t head_dim_;
    int32_t groups_;
    int8_t* k_;
    uint16_t* k_scales_;
    int8_t* v_;
    uint16_t* v_scales_;
};

template <class V>
void store_kv(const KvLayer& kv, uint32_t block, int32_t offset, const float* k, const float* v) {
    CL_ASSERT(offset >= 0 && offset < kBlockPositions);
    const bool int8 = kv.type == KvType::kInt8;
    CL_ASSERT(kv.head_dim % (int8 ? kGroup : kLanes) == 0);
    uint8_t* head = kv.base + block * kv.block_stride;
    for (int32_t h = 0; h < kv.n_kv_heads; ++h, k += kv.head_dim, v += kv.head_dim) {
        if (int8) {
            KvBlock<V, KvType::kInt8>(head, kv.head_dim).store(offset, k, v);
        } else {
            KvBlock<V, KvType::kF16>(head, kv.head_dim).store(offset, k, v);
        }
        head += kv_head_bytes(kv.type, kv.head_dim);
    }
}

}  // namespace chatloop::kernel::lanes
