#include <immintrin.h>

#include <string_view>

#include "kernel/tables.hpp"

namespace chatloop::kernel {

CpuFeatures cpu_features() {
    return {
        .avx2 = __builtin_cpu_supports("avx2") != 0,
        .fma = __builtin_cpu_supports("fma") != 0,
        .f16c = __builtin_cpu_supports("f16c") != 0,
        .avx512 = __builtin_cpu_supports("avx512f") != 0 &&
                  __builtin_cpu_supports("avx512bw") != 0 &&
                  __builtin_cpu_supports("avx512dq") != 0 &&
                  __builtin_cpu_supports("avx512vl") != 0,
    };
}

const Kernels* find_kernels(const char* name, const CpuFeatures& features) {
    const std::string_view wanted = name;
    const bool avx2 = features.avx2 && features.fma && features.f16c;
    if (wanted == kReferenceKernels.name) {
        return features.fma ? &kReferenceKernels : nullptr;
    }
    if (wanted == kAvx2Kernels.name || wanted == "auto") {
        return avx2 ? &kAvx2Kernels : nullptr;
    }
    return nullptr;
}

bool mxcsr_is_default() {
    constexpr uint32_t kStickyFlags = 0x3f;  // set by every inexact result: no setting
    return (_mm_getcsr() & ~kStickyFlags) == 0x1f80;
}

}  // namespace chatloop::kernel
