#include "kernel/reference/f16.hpp"

#include <bit>

namespace chatloop::kernel {

namespace {

constexpr uint32_t kInfinityBits = 0x7f800000;
constexpr uint32_t kHalfOverflowBits = 0x477ff000;   // 65520: the tie between 65504 and infinity
constexpr uint32_t kHalfNormalMinBits = 0x38800000;  // 2^-14

uint32_t shift_right_rne(uint32_t value, uint32_t shift) {
    const uint32_t half = (1u << (shift - 1)) - 1 + ((value >> shift) & 1);
    return (value + half) >> shift;
}

// abs < 2^-14, as a count of 2^-24 (the subnormal step); 1024 is the smallest normal's encoding.
uint32_t half_subnormal(uint32_t abs) {
    const uint32_t exponent = abs >> 23;
    const uint32_t shift = 126 - exponent;
    if (shift > 24) {
        return 0;  // below half a step
    }
    return shift_right_rne((abs & 0x7fffff) | 0x800000, shift);
}

}  // namespace

float f32_from_f16(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t exponent = (half >> 10) & 31u;
    const uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // exact
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    if (exponent == 31) {
        return std::bit_cast<float>(sign | kInfinityBits | (mantissa << 13));
    }
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t f16_from_f32(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t abs = bits & 0x7fffffffu;
    uint32_t magnitude = 0;
    if (abs > kInfinityBits) {
        magnitude = 0x7e00;
    } else if (abs >= kHalfOverflowBits) {
        magnitude = 0x7c00;
    } else if (abs < kHalfNormalMinBits) {
        magnitude = half_subnormal(abs);
    } else {
        magnitude = shift_right_rne(abs, 13) - (112u << 10);
    }
    return static_cast<uint16_t>(sign | magnitude);
}

float f32_from_bf16(uint16_t brain) {
    return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16);
}

}  // namespace chatloop::kernel
