// A kernel table over the op set V, whose quantized matmul is the instruction set's own.
#pragma once

#include "kernel/lanes/attention.hpp"
#include "kernel/lanes/matmul_float.hpp"
#include "kernel/lanes/quantize.hpp"

namespace chatloop::kernel::lanes {

using Matmul = void (*)(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                        int32_t panel_first, int32_t panel_end);

template <class V, Matmul kQuantized>
void matmul(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel_first,
            int32_t panel_end) {
    CL_ASSERT(w.k == x.k && (!is_quantized(w.type) || w.k % kGroup == 0));
    CL_ASSERT(panel_first >= 0 && panel_end <= w.panels());
    switch (w.type) {
        case WeightType::kF32:
            return matmul_float<V, WeightType::kF32>(y, y_stride, w, x, panel_first, panel_end);
        case WeightType::kF16:
            return matmul_float<V, WeightType::kF16>(y, y_stride, w, x, panel_first, panel_end);
        case WeightType::kBf16:
            return matmul_float<V, WeightType::kBf16>(y, y_stride, w, x, panel_first, panel_end);
        default: return kQuantized(y, y_stride, w, x, panel_first, panel_end);
    }
}

template <class V, Matmul kQuantized>
constexpr Kernels table(const char* name) {
    return {
        .name = name,
        .quantize = quantize<V>,
        .matmul = matmul<V, kQuantized>,
        .add_bias = add_bias<V>,
        .embed = embed<V>,
        .add = add<V>,
        .scale = scale<V>,
        .rms_norm = rms_norm<V>,
        .rope = rope<V>,
        .store_kv = store_kv<V>,
        .attention = attention<V>,
        .swiglu = swiglu<V>,
        .softcap = softcap<V>,
        .max = max<V>,
        .sum_exp = sum_exp<V>,
        .softmax_weights = softmax_weights<V>,
        .all_finite = all_finite<V>,
    };
}

}  // namespace chatloop::kernel::lanes
