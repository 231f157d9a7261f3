// Inputs and comparisons of the kernel tests.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "chatloop/kernel/kernels.hpp"
#include "kernel/reference/f16.hpp"
#include "kernel/tables.hpp"

namespace chatloop::kernel::test {

// The table under test.
const Kernels& table();

// The same bits, any NaN being equal to any other.
inline bool same_bits(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) ||
           std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) {
        return false;
    }
    for (size_t i = 0; i < a.size(); ++i) {
        if (!same_bits(a[i], b[i])) {
            return false;
        }
    }
    return true;
}

inline std::vector<float> random_values(size_t n, float magnitude, uint32_t seed) {
    std::mt19937 generator(seed);
    std::vector<float> out(n);
    for (float& x : out) {
        x = (static_cast<float>(generator()) * 0x1p-31f - 1.0f) * magnitude;
    }
    return out;
}

struct Quantized {
    std::vector<int8_t> q;
    std::vector<float> d;
    std::vector<int32_t> sum;
    std::vector<float> sa;

    Quantized(const Kernels& kernels, const std::vector<float>& x, int32_t rows, int32_t k)
        : q(x.size()), d(x.size() / kGroup), sum(d.size()), sa(d.size()) {
        kernels.quantize({q.data(), d.data(), sum.data(), sa.data()}, x.data(), rows, k);
    }
    double value(int32_t rows, int32_t k, int32_t row, int32_t at) const {
        const int64_t group = quantized_group(rows, k / kGroup, row, at / kGroup);
        return q[group * kGroup + at % kGroup] * static_cast<double>(d[group]);
    }
    Activations view(int32_t rows, int32_t k) const {
        return {rows, k, nullptr, q.data(), d.data(), sum.data(), sa.data()};
    }
};

// A random matrix in panel layout. Every 13th scale is zero, a third of them negative; int8 weights
// take all 256 values.
struct RandomMatrix {
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    std::vector<Line> values;
    std::vector<uint16_t> scales;
    Matrix view;

    RandomMatrix(WeightType type, int32_t n, int32_t k, uint32_t seed) {
        view = {.type = type, .n = n, .k = k};
        const size_t elements = static_cast<size_t>(view.panels()) * kPanelRows * k;
        values.resize(elements * sizeof(float) / sizeof(Line) + 1);
        std::mt19937 generator(seed);
        auto* bytes = values.data()->bytes;
        for (size_t i = 0; i < elements; ++i) {
            const float x = (static_cast<float>(generator()) * 0x1p-31f - 1.0f);
            const uint32_t bits = std::bit_cast<uint32_t>(x);
            const uint16_t brain = static_cast<uint16_t>(bits >> 16);
            const uint16_t half = f16_from_f32(x);
            switch (type) {
                case WeightType::kF32: reinterpret_cast<float*>(bytes)[i] = x; break;
                case WeightType::kF16: reinterpret_cast<uint16_t*>(bytes)[i] = half; break;
                case WeightType::kBf16: reinterpret_cast<uint16_t*>(bytes)[i] = brain; break;
                default: bytes[i] = i == 5 ? 0x80 : static_cast<uint8_t>(generator() >> 24); break;
            }
        }
        scales.resize(elements / kGroup * 2);
        for (size_t i = 0; i < scales.size(); ++i) {
            const float x = static_cast<float>(generator()) * 0x1p-36f;
            scales[i] = i % 13 == 0 ? uint16_t{0} : f16_from_f32(i % 3 == 0 ? -x : x);
        }
        view.values = bytes;
        view.scales = scales.data();
    }
};

}  // namespace chatloop::kernel::test
