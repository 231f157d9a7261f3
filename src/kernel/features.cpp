#include <cpuid.h>
#include <immintrin.h>

#include <string_view>
#include <utility>

#include "kernel/tables.hpp"

namespace chatloop::kernel {

namespace {

// clang 14 has no name for it. The instructions need no more of the system than AVX does.
bool has_f16c() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

}  // namespace

CpuFeatures cpu_features() {
    CpuFeatures features;
    features.avx2 = __builtin_cpu_supports("avx2") != 0;
    features.fma = __builtin_cpu_supports("fma") != 0;
    features.f16c = has_f16c();
    features.avx512 =
        __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
        __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    features.avx512_vnni = features.avx512 && __builtin_cpu_supports("avx512vnni") != 0;
    return features;
}

const Kernels* find_kernels(const char* name, const CpuFeatures& features) {
    const bool avx2 = features.avx2 && features.fma && features.f16c;
    const bool avx512 = avx2 && features.avx512;
    // The fastest first.
    const std::pair<const Kernels*, bool> tables[] = {
        {&kAvx512VnniKernels, avx512 && features.avx512_vnni},
        {&kAvx512Kernels, avx512},
        {&kAvx2Kernels, avx2},
        {&kReferenceKernels, features.fma},
    };
    const std::string_view wanted = name;
    for (const auto& [kernels, runs] : tables) {
        if (wanted == kernels->name) return runs ? kernels : nullptr;
        if (wanted == "auto" && runs && kernels != &kReferenceKernels) return kernels;
    }
    return nullptr;
}

bool mxcsr_is_default() {
    constexpr uint32_t kStickyFlags = 0x3f;  // set by every inexact result: no setting
    return (_mm_getcsr() & ~kStickyFlags) == 0x1f80;
}

}  // namespace chatloop::kernel
