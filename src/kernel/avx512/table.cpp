#include "kernel/avx512/lanes.hpp"
#include "kernel/avx512/matmul.hpp"
#include "kernel/lanes/table.hpp"
#include "kernel/tables.hpp"

namespace chatloop::kernel {

constinit const Kernels kAvx512Kernels =
    lanes::table<avx512::Lanes, avx512::matmul_bw>("avx512");
constinit const Kernels kAvx512VnniKernels =
    lanes::table<avx512::Lanes, avx512::matmul_vnni>("avx512vnni");

}  // namespace chatloop::kernel
