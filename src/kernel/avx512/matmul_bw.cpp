#include "kernel/avx512/matmul.hpp"

namespace chatloop::kernel::avx512 {

namespace {

// vpmaddubsw and vpmaddwd, for CPUs without VNNI.
struct Maddubs {
    static __m512i from_int8(__m512i w) { return w; }

    template <WeightType kType>
    static __m512i isum(const Group& group, const int8_t* q, int32_t sum) {
        const __m512i ones = _mm512_set1_epi16(1);
        if constexpr (kType == WeightType::kQ8) {
            // |w| is unsigned and holds 128 for w = -128; a takes w's sign: two products are within
            // 2 * 128 * 127, so they cannot saturate.
            __m512i lanes = _mm512_setzero_si512();
            for (int c = 0; c < 8; ++c) {
                const __m512i a = broadcast4(q + 4 * c);
                const __m512i signed_a = _mm512_mask_sub_epi8(
                    a, _mm512_movepi8_mask(group.w[c]), _mm512_setzero_si512(), a);
                const __m512i pairs =
                    _mm512_maddubs_epi16(_mm512_abs_epi8(group.w[c]), signed_a);
                lanes = _mm512_add_epi32(lanes, _mm512_madd_epi16(pairs, ones));
            }
            return lanes;
        } else {
            // A maddubs of nibbles is within 2 * 15 * 127, so the sum of 8 is within int16.
            __m512i even = _mm512_maddubs_epi16(group.w[0], broadcast4(q));
            __m512i odd = _mm512_maddubs_epi16(group.w[1], broadcast4(q + 4));
            for (int c = 2; c < 8; c += 2) {
                even = _mm512_add_epi16(
                    even, _mm512_maddubs_epi16(group.w[c], broadcast4(q + 4 * c)));
                odd = _mm512_add_epi16(
                    odd, _mm512_maddubs_epi16(group.w[c + 1], broadcast4(q + 4 * c + 4)));
            }
            const __m512i lanes = _mm512_madd_epi16(_mm512_add_epi16(even, odd), ones);
            if constexpr (kType == WeightType::kQ4) {
                return _mm512_sub_epi32(lanes, _mm512_set1_epi32(8 * sum));
            }
            return lanes;
        }
    }
};

}  // namespace

void matmul_bw(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
               int32_t panel_first, int32_t panel_end) {
    matmul<Maddubs>(y, y_stride, w, x, panel_first, panel_end);
}

}  // namespace chatloop::kernel::avx512
