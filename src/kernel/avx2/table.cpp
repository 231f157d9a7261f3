#include "kernel/avx2/lanes.hpp"
#include "kernel/avx2/matmul.hpp"
#include "kernel/lanes/table.hpp"
#include "kernel/tables.hpp"

namespace chatloop::kernel {

constinit const Kernels kAvx2Kernels = lanes::table<avx2::Lanes, avx2::matmul_quantized>("avx2");

}  // namespace chatloop::kernel
