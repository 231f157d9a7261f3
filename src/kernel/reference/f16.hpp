// Half precision and bfloat16 in software: the rules that F16C follows with an immediate rounding
// mode (nearest even), whatever MXCSR says. Subnormals are kept; a NaN stays a NaN.
#pragma once

#include <cstdint>

namespace chatloop::kernel {

float f32_from_f16(uint16_t half);
uint16_t f16_from_f32(float value);  // beyond 65520: infinity
float f32_from_bf16(uint16_t brain);

}  // namespace chatloop::kernel
