// Rules 2 and 3. The panel layouts are those of docs/model_format.md.
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "kernel/reference/f16.hpp"
#include "kernel/reference/reference.hpp"

namespace chatloop::kernel::reference {

namespace {

// The stored quant of w[n][k], before any zero point.
int32_t quant_at(const Matrix& w, int32_t n, int32_t k) {
    const int64_t group = int64_t{n / kPanelRows} * (w.k / kGroup) + k / kGroup;
    const int32_t row = n % kPanelRows;
    const int32_t in_group = k % kGroup;
    if (w.type == WeightType::kQ8) {
        const auto* q = static_cast<const int8_t*>(w.values) + group * kPanelRows * kGroup;
        return q[(in_group / 4 * kPanelRows + row) * 4 + in_group % 4];
    }
    const auto* q = static_cast<const uint8_t*>(w.values) + group * kPanelRows * kGroup / 2;
    const int32_t low = in_group % 16;
    const uint8_t byte = q[(low / 4 * kPanelRows + row) * 4 + low % 4];
    return in_group < 16 ? byte & 15 : byte >> 4;
}

float dot_quantized(const Matrix& w, int32_t n, const Activations& x, int32_t r) {
    const int32_t groups = w.k / kGroup;
    const int32_t zero_point = w.type == WeightType::kQ4 ? 8 : 0;
    const int32_t halves = w.type == WeightType::kQ4Min ? 2 : 1;
    float acc = 0.0f;
    for (int32_t g = 0; g < groups; ++g) {
        const int64_t at = quantized_group(x.rows, groups, r, g);
        int32_t isum = 0;
        for (int32_t k = 0; k < kGroup; ++k) {
            isum += (quant_at(w, n, g * kGroup + k) - zero_point) * x.q[at * kGroup + k];
        }
        const int64_t line = (int64_t{n / kPanelRows} * groups + g) * halves * kPanelRows;
        const uint16_t* scales = w.scales + line + n % kPanelRows;
        acc = std::fma(static_cast<float>(isum), f32_from_f16(scales[0]) * x.d[at], acc);
        if (w.type == WeightType::kQ4Min) {
            acc = std::fma(f32_from_f16(scales[kPanelRows]), x.sa[at], acc);
        }
    }
    return acc;
}

float dot_float(const Matrix& w, int32_t n, const Activations& x, int32_t r) {
    const float* row = x.x + int64_t{r} * x.k;
    float acc = 0.0f;
    for (int32_t k = 0; k < w.k; ++k) {
        acc = std::fma(weight_at(w, n, k), row[k], acc);
    }
    return acc;
}

}  // namespace

float weight_at(const Matrix& w, int32_t n, int32_t k) {
    const int64_t at = (int64_t{n / kPanelRows} * w.k + k) * kPanelRows + n % kPanelRows;
    switch (w.type) {
        case WeightType::kF16: return f32_from_f16(static_cast<const uint16_t*>(w.values)[at]);
        case WeightType::kBf16: return f32_from_bf16(static_cast<const uint16_t*>(w.values)[at]);
        default: return static_cast<const float*>(w.values)[at];
    }
}

void matmul(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel_first,
            int32_t panel_end) {
    CL_ASSERT(w.k == x.k && (!is_quantized(w.type) || w.k % kGroup == 0));
    CL_ASSERT(panel_first >= 0 && panel_end <= w.panels());
    const int32_t end = panel_end * kPanelRows < w.n ? panel_end * kPanelRows : w.n;
    for (int32_t r = 0; r < x.rows; ++r) {
        for (int32_t n = panel_first * kPanelRows; n < end; ++n) {
            y[r * y_stride + n] =
                is_quantized(w.type) ? dot_quantized(w, n, x, r) : dot_float(w, n, x, r);
        }
    }
}

}  // namespace chatloop::kernel::reference
