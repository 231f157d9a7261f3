// Every operation of the op set as a plain function over three inputs of 16 floats, so that the
// backends can be compared without their flags. A target's list is compiled with its flags.
#pragma once

#include <span>

#include "kernel/lanes/attention.hpp"

namespace chatloop::kernel::test {

struct LaneOp {
    const char* name;
    void (*run)(float* out, const float* a, const float* b, const float* c);
};

std::span<const LaneOp> scalar_lane_ops();
std::span<const LaneOp> avx2_lane_ops();
std::span<const LaneOp> avx512_lane_ops();

// An expression over the lanes a, b, c of the inputs pa, pb, pc.
#define CHATLOOP_LANE_OP(expression)                                                 \
    LaneOp {                                                                         \
        #expression, [](float* out, const float* pa, const float* pb, const float* pc) { \
            const auto a = V::load(pa), b = V::load(pb), c = V::load(pc);            \
            (void)a, (void)b, (void)c;                                               \
            V::store(out, expression);                                               \
        }                                                                            \
    }

template <class V>
typename V::F through_f16(typename V::F a) {
    uint16_t half[kLanes];
    V::store_f16(half, a);
    return V::load_f16(half);
}

template <class V>
typename V::F from_bf16(const float* a) {
    uint16_t words[2 * kLanes];
    __builtin_memcpy(words, a, sizeof(words) / 2);
    __builtin_memcpy(words + kLanes, a, sizeof(words) / 2);
    return V::load_bf16(words + 3);
}

// round() is defined for what fits an int32.
template <class V>
typename V::F rounded(typename V::F a) {
    const auto x = V::min(V::set1(1e6f), V::max(V::set1(-1e6f), a));
    const auto finite = V::select_less(x, V::set1(2e6f), x, V::set1(0.0f));
    return V::to_float(V::round(finite));
}

template <class V>
typename V::F bytes(const float* a) {
    const auto* raw = reinterpret_cast<const uint8_t*>(a);
    int8_t out[kLanes];
    V::store_i8(out, V::load_i8(reinterpret_cast<const int8_t*>(raw) + 5));
    return V::to_float(V::add_int(V::load_i8(out), V::load_u8(raw + 21)));
}

// Bounds from -70 to 70 out of two inputs.
template <class V>
typename V::F range(const float* a, const float* b, typename V::F yes, typename V::F no) {
    const auto bound = [](float x) {
        return static_cast<int32_t>(__builtin_bit_cast(uint32_t, x) % 141) - 70;
    };
    return V::select_range(bound(a[1]), bound(b[2]), yes, no);
}

template <class V>
typename V::F set1_f16(const float* a) {
    uint16_t half;
    __builtin_memcpy(&half, reinterpret_cast<const uint8_t*>(a) + 2, sizeof(half));
    return V::set1_f16(half);
}

template <class V>
constexpr LaneOp kLaneOps[] = {
    CHATLOOP_LANE_OP(V::add(a, b)),
    CHATLOOP_LANE_OP(V::sub(a, b)),
    CHATLOOP_LANE_OP(V::mul(a, b)),
    CHATLOOP_LANE_OP(V::div(a, b)),
    CHATLOOP_LANE_OP(V::fma(a, b, c)),
    CHATLOOP_LANE_OP(V::sqrt(a)),
    CHATLOOP_LANE_OP(V::neg(a)),
    CHATLOOP_LANE_OP(V::max(a, b)),
    CHATLOOP_LANE_OP(V::min(a, b)),
    CHATLOOP_LANE_OP(V::select_less(a, b, c, a)),
    CHATLOOP_LANE_OP(range<V>(pa, pb, a, c)),
    CHATLOOP_LANE_OP(range<V>(pb, pc, a, b)),
    CHATLOOP_LANE_OP(V::set1(pa[3])),
    CHATLOOP_LANE_OP(V::set1(V::sum(a))),
    CHATLOOP_LANE_OP(V::set1(V::maximum(a))),
    CHATLOOP_LANE_OP(lanes::exp<V>(a)),
    CHATLOOP_LANE_OP(lanes::softcap_of<V>(a, b)),
    CHATLOOP_LANE_OP(through_f16<V>(a)),
    CHATLOOP_LANE_OP(set1_f16<V>(pa)),
    CHATLOOP_LANE_OP(from_bf16<V>(pa)),
    CHATLOOP_LANE_OP(rounded<V>(a)),
    CHATLOOP_LANE_OP(bytes<V>(pa)),
    CHATLOOP_LANE_OP(V::as_float(V::load_int(reinterpret_cast<const int32_t*>(pa)))),
    CHATLOOP_LANE_OP(V::as_float(V::add_int(V::bits(a), V::bits(b)))),
    CHATLOOP_LANE_OP(V::as_float(V::and_int(V::bits(a), V::bits(b)))),
    CHATLOOP_LANE_OP(V::as_float(V::max_int(V::bits(a), V::bits(b)))),
    CHATLOOP_LANE_OP(V::as_float(V::template shift_left<23>(V::bits(a)))),
    CHATLOOP_LANE_OP(V::as_float(V::template shift_right<4>(V::bits(a)))),
    CHATLOOP_LANE_OP(V::to_float(V::bits(a))),
    CHATLOOP_LANE_OP(V::to_float(V::set1_int(V::sum_int(V::bits(a))))),
    CHATLOOP_LANE_OP(V::to_float(V::set1_int(V::maximum_int(V::bits(a))))),
};

}  // namespace chatloop::kernel::test
