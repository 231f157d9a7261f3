#include "chatloop/core/assert.hpp"
#include "kernel/avx2/lanes.hpp"
#include "kernel/avx2/matmul.hpp"
#include "kernel/lanes/attention.hpp"
#include "kernel/lanes/matmul_float.hpp"
#include "kernel/lanes/quantize.hpp"
#include "kernel/tables.hpp"

namespace chatloop::kernel {

namespace {

using V = avx2::Lanes;

void matmul(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel_first,
            int32_t panel_end) {
    CL_ASSERT(w.k == x.k && (!is_quantized(w.type) || w.k % kGroup == 0));
    CL_ASSERT(panel_first >= 0 && panel_end <= w.panels());
    switch (w.type) {
        case WeightType::kF32:
            return lanes::matmul_float<V, WeightType::kF32>(y, y_stride, w, x, panel_first,
                                                            panel_end);
        case WeightType::kF16:
            return lanes::matmul_float<V, WeightType::kF16>(y, y_stride, w, x, panel_first,
                                                            panel_end);
        case WeightType::kBf16:
            return lanes::matmul_float<V, WeightType::kBf16>(y, y_stride, w, x, panel_first,
                                                             panel_end);
        case WeightType::kQ8: return avx2::matmul_q8(y, y_stride, w, x, panel_first, panel_end);
        case WeightType::kQ4:
        case WeightType::kQ4Min:
            return avx2::matmul_q4(y, y_stride, w, x, panel_first, panel_end);
    }
}

}  // namespace

const Kernels kAvx2Kernels = {
    .name = "avx2",
    .quantize = lanes::quantize<V>,
    .matmul = matmul,
    .add_bias = lanes::add_bias<V>,
    .embed = lanes::embed<V>,
    .add = lanes::add<V>,
    .scale = lanes::scale<V>,
    .rms_norm = lanes::rms_norm<V>,
    .rope = lanes::rope<V>,
    .store_kv = lanes::store_kv<V>,
    .attention = lanes::attention<V>,
    .swiglu = lanes::swiglu<V>,
    .softcap = lanes::softcap<V>,
    .max = lanes::max<V>,
    .sum_exp = lanes::sum_exp<V>,
    .softmax_weights = lanes::softmax_weights<V>,
    .all_finite = lanes::all_finite<V>,
};

}  // namespace chatloop::kernel
