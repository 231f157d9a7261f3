// The tables of this build. find_kernels() decides which of them the CPU may run.
#pragma once

#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel {

extern const Kernels kReferenceKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;      // F, BW, DQ, VL
extern const Kernels kAvx512VnniKernels;  // and VNNI

}  // namespace chatloop::kernel
