#pragma once

#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel::avx2 {

// Rule 2, panels [panel_first, panel_end); sizes are checked by the caller.
void matmul_quantized(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                      int32_t panel_first, int32_t panel_end);

}  // namespace chatloop::kernel::avx2
