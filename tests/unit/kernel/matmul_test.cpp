#include <doctest/doctest.h>

#include "kernel/reference/reference.hpp"
#include "support.hpp"

using namespace chatloop::kernel;
using namespace chatloop::kernel::test;

namespace {

constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kF16, WeightType::kBf16,
                                 WeightType::kQ8,  WeightType::kQ4,  WeightType::kQ4Min};

std::vector<float> multiply(const Kernels& kernels, const Matrix& w, const Activations& x,
                            int32_t y_stride) {
    std::vector<float> y(static_cast<size_t>(x.rows) * y_stride, -7.0f);
    kernels.matmul(y.data(), y_stride, w, x, 0, w.panels());
    return y;
}

// w[n][k] as the file format defines it, read here independently of the kernels.
double weight(const Matrix& w, int32_t n, int32_t k) {
    if (!is_quantized(w.type)) {
        return static_cast<double>(reference::weight_at(w, n, k));
    }
    const int32_t p = n / 16, i = n % 16, g = k / 32, c = k % 32 / 4, j = k % 4;
    const int32_t groups = w.k / 32;
    const bool has_minimum = w.type == WeightType::kQ4Min;
    const uint16_t* line = w.scales + (p * groups + g) * (has_minimum ? 32 : 16);
    const double scale = static_cast<double>(f32_from_f16(line[i]));
    if (w.type == WeightType::kQ8) {
        return scale * static_cast<const int8_t*>(
                           w.values)[((((p * groups + g) * 8 + c) * 16) + i) * 4 + j];
    }
    const uint8_t byte = static_cast<const uint8_t*>(
        w.values)[((((p * groups + g) * 4 + c % 4) * 16) + i) * 4 + j];
    const int32_t q = c < 4 ? byte & 15 : byte >> 4;
    return has_minimum ? scale * q + static_cast<double>(f32_from_f16(line[16 + i]))
                       : scale * (q - 8);
}

}  // namespace

TEST_CASE("the reference is within the bound of its own roundings of f64") {
    for (const WeightType type : kTypes) {
        const int32_t n = 37, k = 96, rows = 3;
        const RandomMatrix w(type, n, k, 11);
        const std::vector<float> x = random_values(rows * k, 2.0f, 12);
        const Quantized quantized(kReferenceKernels, x, rows, k);
        Activations input = quantized.view(rows, k);
        input.x = x.data();
        const std::vector<float> y = multiply(kReferenceKernels, w.view, input, n);
        int32_t outside = 0;
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t o = 0; o < n; ++o) {
                double exact = 0.0, magnitude = 0.0;
                for (int32_t i = 0; i < k; ++i) {
                    const double a = is_quantized(type)
                                         ? quantized.value(rows, k, r, i)
                                         : static_cast<double>(x[r * k + i]);
                    exact += weight(w.view, o, i) * a;
                    magnitude += std::abs(weight(w.view, o, i) * a);
                }
                // At most k roundings of a chain, and for a minimum's cancellation a factor.
                const double bound = 16.0 * k * 0x1p-24 * magnitude + 1e-30;
                const double error = std::abs(static_cast<double>(y[r * n + o]) - exact);
                outside += error > bound;
            }
        }
        CHECK(outside == 0);
    }
}

TEST_CASE("the table has the reference's bits for every type, row count and odd size") {
    for (const WeightType type : kTypes) {
        for (const int32_t k : {1, 7, 31, 32, 96, 576}) {
            if (is_quantized(type) && k % kGroup != 0) {
                continue;
            }
            for (const int32_t n : {1, 8, 15, 16, 23, 73}) {
                const RandomMatrix w(type, n, k, static_cast<uint32_t>(n + k));
                for (const int32_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 64}) {
                    if (k == 576 && rows > 9 && n != 73) {
                        continue;
                    }
                    const std::vector<float> x =
                        random_values(static_cast<size_t>(rows) * k, 4.0f, 5);
                    const Quantized quantized(kReferenceKernels, x, k % kGroup == 0 ? rows : 0,
                                              k % kGroup == 0 ? k : kGroup);
                    Activations input = quantized.view(rows, k);
                    input.x = x.data();
                    // A stride wider than n: what lies beyond must stay as it was.
                    CHECK(same_bits(multiply(kReferenceKernels, w.view, input, n + 3),
                                    multiply(table(), w.view, input, n + 3)));
                }
            }
        }
    }
}

TEST_CASE("a range of panels writes exactly its own outputs") {
    const RandomMatrix w(WeightType::kQ4Min, 90, 64, 3);
    const std::vector<float> x = random_values(5 * 64, 1.0f, 4);
    const Quantized quantized(table(), x, 5, 64);
    const std::vector<float> whole = multiply(table(), w.view, quantized.view(5, 64), 90);
    for (const Kernels* kernels : {&kReferenceKernels, &table()}) {
        std::vector<float> y(whole.size(), -7.0f);
        kernels->matmul(y.data(), 90, w.view, quantized.view(5, 64), 2, 4);
        int32_t wrong = 0;
        for (size_t i = 0; i < y.size(); ++i) {
            const bool inside = i % 90 >= 32 && i % 90 < 64;
            wrong += y[i] != (inside ? whole[i] : -7.0f);
        }
        CHECK(wrong == 0);
    }
}

TEST_CASE("the extremes of the integer parts") {
    // All weights at one end, all activations at one end: the largest sums of each format.
    const int32_t k = 64;
    for (const WeightType type : {WeightType::kQ8, WeightType::kQ4, WeightType::kQ4Min}) {
        for (const int32_t fill : {0x80, 0x7f, 0xff, 0x00}) {
            RandomMatrix w(type, 16, k, 1);
            for (auto& line : w.values) {
                for (uint8_t& byte : line.bytes) {
                    byte = static_cast<uint8_t>(fill);
                }
            }
            for (const float sign : {1.0f, -1.0f}) {
                const std::vector<float> x(5 * k, sign);
                const Quantized quantized(kReferenceKernels, x, 5, k);
                CHECK(same_bits(multiply(kReferenceKernels, w.view, quantized.view(5, k), 16),
                                multiply(table(), w.view, quantized.view(5, k), 16)));
            }
        }
    }
}
