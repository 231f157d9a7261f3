// One kv head of one KV block as attention reads it: 16 positions of a key dimension, 16 dimensions
// of a value, as floats (rule 7). The layout is kv_head_bytes'.
#pragma once

#include "kernel/lanes/elementwise.hpp"

namespace chatloop::kernel::lanes {

template <class V, KvType kType>
class KvBlock;

template <class V>
class KvBlock<V, KvType::kF16> {
public:
    KvBlock(const uint8_t* head, int32_t head_dim)
        : head_dim_(head_dim),
          k_(reinterpret_cast<const uint16_t*>(head)),
          v_(k_ + kBlockPositions * head_dim) {}

    struct KeyScale {};
    KeyScale key_scale(int32_t, int32_t) const { return {}; }
    typename V::F key(int32_t d, int32_t j, KeyScale) const {
        return V::load_f16(k_ + d * kBlockPositions + j);
    }
    typename V::F value(int32_t j, int32_t d) const { return V::load_f16(v_ + j * head_dim_ + d); }

private:
    int32_t head_dim_;
    const uint16_t* k_;
    const uint16_t* v_;
};

template <class V>
class KvBlock<V, KvType::kInt8> {
public:
    KvBlock(const uint8_t* head, int32_t head_dim)
        : head_dim_(head_dim),
          groups_(head_dim / kGroup),
          k_(reinterpret_cast<const int8_t*>(head)),
          k_scales_(reinterpret_cast<const uint16_t*>(k_ + kBlockPositions * head_dim)),
          v_(reinterpret_cast<const int8_t*>(k_scales_ + kBlockPositions * groups_)),
          v_scales_(reinterpret_cast<const uint16_t*>(v_ + kBlockPositions * head_dim)) {}

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
    const int8_t* k_;
    const uint16_t* k_scales_;
    const int8_t* v_;
    const uint16_t* v_scales_;
};

}  // namespace chatloop::kernel::lanes
