// The op set on AVX-512 (F, BW, DQ, VL): 16 lanes are one register. lanes/scalar.hpp says what each
// operation means. Only for files built with the target's flags.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernel/avx2/tree8.hpp"

namespace chatloop::kernel::avx512 {

struct Lanes {
    static constexpr int32_t kTileQueries = 12;   // of attention
    static constexpr int32_t kAccumulators = 24;  // F values that stay in registers in a loop

    struct F {
        __m512 v;
    };
    struct I {
        __m512i v;
    };

    static constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    static F set1(float x) { return {_mm512_set1_ps(x)}; }
    static F load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
    static F load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(load256(p))}; }
    static F set1_f16(uint16_t half) {
        return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(half)))};
    }
    static F load_bf16(const uint16_t* p) {
        return as_float(shift_left<16>({_mm512_cvtepu16_epi32(load256(p))}));
    }
    static void store_f16(uint16_t* p, F a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, kNearest));
    }

    static F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
    static F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
    static F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
    static F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
    static F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    static F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
    static F neg(F a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
    static F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
    static F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
    static F select_less(F a, F b, F yes, F no) {
        return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
    }
    static F select_range(int32_t first, int32_t end, F yes, F no) {
        return {_mm512_mask_blend_ps(
            static_cast<__mmask16>(lanes_below(end) & ~lanes_below(first)), no.v, yes.v)};
    }
    static float sum(F a) { return avx2::sum8(_mm256_add_ps(low_half(a), high_half(a))); }
    static float maximum(F a) { return avx2::maximum8(_mm256_max_ps(low_half(a), high_half(a))); }

    static I set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
    static I load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
    static I load_i8(const int8_t* p) { return {_mm512_cvtepi8_epi32(load128(p))}; }
    static I load_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(load128(p))}; }
    static void store_i8(int8_t* p, I a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v));
    }
    static I bits(F a) { return {_mm512_castps_si512(a.v)}; }
    static F as_float(I a) { return {_mm512_castsi512_ps(a.v)}; }
    static F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
    static I round(F a) { return {_mm512_cvt_roundps_epi32(a.v, kNearest)}; }
    static I add_int(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
    static I and_int(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
    template <int kBits>
    static I shift_left(I a) {
        return {_mm512_slli_epi32(a.v, kBits)};
    }
    template <int kBits>
    static I shift_right(I a) {
        return {_mm512_srli_epi32(a.v, kBits)};
    }
    static I max_int(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
    static int32_t sum_int(I a) {
        return avx2::sum8_int(_mm256_add_epi32(low_half(a), high_half(a)));
    }
    static int32_t maximum_int(I a) {
        return avx2::maximum8_int(_mm256_max_epi32(low_half(a), high_half(a)));
    }

private:
    static __m128i load128(const void* p) {
        return _mm_loadu_si128(static_cast<const __m128i*>(p));
    }
    static __m256i load256(const void* p) {
        return _mm256_loadu_si256(static_cast<const __m256i*>(p));
    }
    static __m256 low_half(F a) { return _mm512_castps512_ps256(a.v); }
    static __m256 high_half(F a) { return _mm512_extractf32x8_ps(a.v, 1); }
    static __m256i low_half(I a) { return _mm512_castsi512_si256(a.v); }
    static __m256i high_half(I a) { return _mm512_extracti32x8_epi32(a.v, 1); }
    // A bit for each lane below `end`.
    static uint32_t lanes_below(int32_t end) {
        return end <= 0 ? 0u : end >= 16 ? 0xffffu : (1u << end) - 1;
    }
};

}  // namespace chatloop::kernel::avx512
