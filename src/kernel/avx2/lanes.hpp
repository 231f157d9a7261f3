// The op set on AVX2 + FMA + F16C: 16 lanes are two registers. lanes/scalar.hpp says what each
// operation means. Only for files built with the target's flags.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernel/avx2/tree8.hpp"

namespace chatloop::kernel::avx2 {

struct Lanes {
    static constexpr int32_t kTileQueries = 6;   // of attention
    static constexpr int32_t kAccumulators = 6;  // F values that stay in registers in a loop

    struct F {
        __m256 lo, hi;
    };
    struct I {
        __m256i lo, hi;
    };

    static F set1(float x) {
        const __m256 all = _mm256_set1_ps(x);
        return {all, all};
    }
    static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static void store(float* p, F a) {
        _mm256_storeu_ps(p, a.lo);
        _mm256_storeu_ps(p + 8, a.hi);
    }
    static F load_f16(const uint16_t* p) {
        return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))};
    }
    static F set1_f16(uint16_t half) {
        const __m256 all = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(half)));
        return {all, all};
    }
    static F load_bf16(const uint16_t* p) {
        const I wide = {_mm256_cvtepu16_epi32(load128(p)), _mm256_cvtepu16_epi32(load128(p + 8))};
        return as_float(shift_left<16>(wide));
    }
    static void store_f16(uint16_t* p, F a) {
        store128(p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
        store128(p + 8, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
    }

    static F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
    static F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
    static F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
    static F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
    static F fma(F a, F b, F c) {
        return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
    }
    static F sqrt(F a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
    static F neg(F a) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
    }
    static F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
    static F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
    static F select_less(F a, F b, F yes, F no) {
        return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
    }
    static F select_range(int32_t first, int32_t end, F yes, F no) {
        const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return {select_half(index, first, end, yes.lo, no.lo),
                select_half(_mm256_add_epi32(index, _mm256_set1_epi32(8)), first, end, yes.hi,
                            no.hi)};
    }
    static float sum(F a) { return sum8(_mm256_add_ps(a.lo, a.hi)); }
    static float maximum(F a) { return maximum8(_mm256_max_ps(a.lo, a.hi)); }

    static I set1_int(int32_t x) {
        const __m256i all = _mm256_set1_epi32(x);
        return {all, all};
    }
    static I load_int(const int32_t* p) {
        const auto* at = reinterpret_cast<const __m256i*>(p);
        return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
    }
    static I load_i8(const int8_t* p) {
        const __m128i bytes = load128(p);
        return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
    }
    static I load_u8(const uint8_t* p) {
        const __m128i bytes = load128(p);
        return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
    }
    static void store_i8(int8_t* p, I a) {
        const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a.lo),
                                            _mm256_extracti128_si256(a.lo, 1));
        const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(a.hi),
                                             _mm256_extracti128_si256(a.hi, 1));
        store128(p, _mm_packs_epi16(low, high));
    }
    static I bits(F a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
    static F as_float(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
    static F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
    static I round(F a) {
        constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        return {_mm256_cvttps_epi32(_mm256_round_ps(a.lo, kMode)),
                _mm256_cvttps_epi32(_mm256_round_ps(a.hi, kMode))};
    }
    static I add_int(I a, I b) {
        return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
    }
    static I and_int(I a, I b) {
        return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
    }
    template <int kBits>
    static I shift_left(I a) {
        return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
    }
    template <int kBits>
    static I shift_right(I a) {
        return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
    }
    static I max_int(I a, I b) {
        return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
    }
    static int32_t sum_int(I a) { return sum8_int(_mm256_add_epi32(a.lo, a.hi)); }
    static int32_t maximum_int(I a) { return maximum8_int(_mm256_max_epi32(a.lo, a.hi)); }

private:
    static __m128i load128(const void* p) {
        return _mm_loadu_si128(static_cast<const __m128i*>(p));
    }
    static void store128(void* p, __m128i a) { _mm_storeu_si128(static_cast<__m128i*>(p), a); }
    static __m256 select_half(__m256i index, int32_t first, int32_t end, __m256 yes, __m256 no) {
        const __m256i from = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(first - 1));
        const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), index);
        return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(_mm256_and_si256(from, before)));
    }
};

}  // namespace chatloop::kernel::avx2
