#include "kernel/reference/reference.hpp"
#include "kernel/tables.hpp"

namespace chatloop::kernel {

const Kernels kReferenceKernels = {
    .name = "reference",
    .quantize = reference::quantize,
    .matmul = reference::matmul,
    .add_bias = reference::add_bias,
    .embed = reference::embed,
    .add = reference::add,
    .scale = reference::scale,
    .rms_norm = reference::rms_norm,
    .rope = reference::rope,
    .store_kv = reference::store_kv,
    .attention = reference::attention,
    .swiglu = reference::swiglu,
    .softcap = reference::softcap,
    .max = reference::max,
    .sum_exp = reference::sum_exp,
    .softmax_weights = reference::softmax_weights,
    .all_finite = reference::all_finite,
};

}  // namespace chatloop::kernel
