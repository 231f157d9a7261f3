#include <doctest/doctest.h>
#include <immintrin.h>

#include <chrono>
#include <cstring>

#include "support.hpp"

using namespace chatloop::kernel;
using chatloop::kernel::test::table;

namespace {

// A table that is right but for one kernel.
Kernels with_wrong_scale() {
    Kernels kernels = kReferenceKernels;
    kernels.scale = [](float* x, float factor, int64_t n) {
        kReferenceKernels.scale(x, factor, n);
        x[n - 1] = std::nextafter(x[n - 1], n > 8 ? 1e30f : x[n - 1]);
    };
    return kernels;
}

Kernels with_rounded_products() {
    Kernels kernels = kReferenceKernels;
    kernels.matmul = [](float* y, int64_t, const Matrix& w, const Activations& x, int32_t,
                        int32_t) {
        const auto* values = static_cast<const float*>(w.values);
        y[0] = values[0] * x.x[0];
        y[0] += values[kPanelRows] * x.x[1];
    };
    return kernels;
}

}  // namespace

TEST_CASE("every table has the committed digest") {
    CHECK(self_test(kReferenceKernels) == kSelfTestDigest);
    const auto start = std::chrono::steady_clock::now();
    CHECK(self_test(table()) == kSelfTestDigest);
    const auto end = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::milli> taken = end - start;
    MESSAGE("self-test of ", std::string(table().name), ": ", taken.count(), " ms");
    CHECK(taken.count() < 50.0);
}

TEST_CASE("one wrong bit changes the digest, and rounded products have none") {
    CHECK(self_test(with_wrong_scale()) != kSelfTestDigest);
    CHECK(self_test(with_rounded_products()) == 0);
}

TEST_CASE("flushed denormals are found, by MXCSR and by the self-test") {
    CHECK(mxcsr_is_default());
    const uint32_t saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);  // FTZ and DAZ
    const bool is_default = mxcsr_is_default();
    const uint64_t digest = self_test(table());
    _mm_setcsr(saved);
    CHECK(!is_default);
    CHECK(digest == 0);
}

TEST_CASE("a table is found only where the CPU can run it") {
    CpuFeatures all = {.avx2 = true, .fma = true, .f16c = true};
    CHECK(std::strcmp(find_kernels("auto", all)->name, "avx2") == 0);
    CHECK(find_kernels("avx512", all) == nullptr);
    all.avx512 = true;
    CHECK(std::strcmp(find_kernels("auto", all)->name, "avx512") == 0);
    CHECK(find_kernels("avx512vnni", all) == nullptr);
    all.avx512_vnni = true;
    CHECK(std::strcmp(find_kernels("auto", all)->name, "avx512vnni") == 0);
    CHECK(std::strcmp(find_kernels("avx2", all)->name, "avx2") == 0);
    CHECK(std::strcmp(find_kernels("reference", all)->name, "reference") == 0);
    CHECK(find_kernels("sse2", all) == nullptr);
    CHECK(find_kernels("auto", {.avx2 = true, .fma = false, .f16c = true}) == nullptr);
    CHECK(find_kernels("avx2", {.avx2 = true, .fma = true, .f16c = false}) == nullptr);
    CHECK(find_kernels("reference", {.avx2 = true, .fma = false, .f16c = true}) == nullptr);
}
