#include "kernel/avx512/matmul.hpp"

namespace chatloop::kernel::avx512 {

namespace {

// vpdpbusd: 4 products of an unsigned and a signed byte, added to the lane without saturation.
struct Vnni {
    // w + 128 as unsigned; the sum of the activations takes the 128 back.
    static __m512i from_int8(__m512i w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }

    template <WeightType kType>
    static __m512i isum(const Group& group, const int8_t* q, int32_t sum) {
        constexpr int32_t kZeroPoint = kType == WeightType::kQ8   ? 128
                                       : kType == WeightType::kQ4 ? 8
                                                                  : 0;
        __m512i lanes = _mm512_setzero_si512();
        if constexpr (kZeroPoint != 0) {
            lanes = _mm512_set1_epi32(-kZeroPoint * sum);
        }
        for (int c = 0; c < 8; ++c) {
            lanes = _mm512_dpbusd_epi32(lanes, group.w[c], broadcast4(q + 4 * c));
        }
        return lanes;
    }
};

}  // namespace

void matmul_vnni(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                 int32_t panel_first, int32_t panel_end) {
    matmul<Vnni>(y, y_stride, w, x, panel_first, panel_end);
}

}  // namespace chatloop::kernel::avx512
