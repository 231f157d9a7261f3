// Rule 3 over the op set V: float weights in panels (P, K, 16), a lane per output.
#pragma once

#include "kernel/lanes/elementwise.hpp"

namespace chatloop::kernel::lanes {

template <class V, WeightType kType>
typename V::F load_weights(const void* values, int64_t at) {
    if constexpr (kType == WeightType::kF32) {
        return V::load(static_cast<const float*>(values) + at);
    } else if constexpr (kType == WeightType::kF16) {
        return V::load_f16(static_cast<const uint16_t*>(values) + at);
    } else {
        return V::load_bf16(static_cast<const uint16_t*>(values) + at);
    }
}

// kRows rows by kPanels panels from `panel` on. Several of either hide the latency of the chain.
template <class V, WeightType kType, int kRows, int kPanels>
void float_tile(float* y, int64_t y_stride, const Matrix& w, const float* x, int32_t panel) {
    typename V::F acc[kRows][kPanels];
    for (auto& row : acc) {
        for (auto& lanes : row) {
            lanes = V::set1(0.0f);
        }
    }
    const int64_t panel_elements = int64_t{w.k} * kPanelRows;
    for (int32_t k = 0; k < w.k; ++k) {
        for (int32_t p = 0; p < kPanels; ++p) {
            const auto weights =
                load_weights<V, kType>(w.values, (panel + p) * panel_elements + k * kPanelRows);
            for (int32_t r = 0; r < kRows; ++r) {
                acc[r][p] = V::fma(weights, V::set1(x[int64_t{r} * w.k + k]), acc[r][p]);
            }
        }
    }
    for (int32_t p = 0; p < kPanels; ++p) {
        const int32_t n = (panel + p) * kPanelRows;
        for (int32_t r = 0; r < kRows; ++r) {
            float* out = y + r * y_stride + n;
            if (n + kPanelRows <= w.n) {
                V::store(out, acc[r][p]);
            } else {
                store_n<V>(out, acc[r][p], w.n - n);
            }
        }
    }
}

// Every row against kPanels panels before the next ones, so that weights come from memory once.
template <class V, WeightType kType, int kPanels>
void float_panels(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                  int32_t panel) {
    constexpr int32_t kRows = 4;
    const int32_t tiled = x.rows / kRows * kRows;
    for (int32_t p = panel; p < panel + kPanels; ++p) {
        for (int32_t row = 0; row < tiled; row += kRows) {
            float_tile<V, kType, kRows, 1>(y + row * y_stride, y_stride, w,
                                           x.x + int64_t{row} * w.k, p);
        }
    }
    for (int32_t row = tiled; row < x.rows; ++row) {
        float_tile<V, kType, 1, kPanels>(y + row * y_stride, y_stride, w,
                                         x.x + int64_t{row} * w.k, panel);
    }
}

template <class V, WeightType kType>
void matmul_float(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                  int32_t panel_first, int32_t panel_end) {
    constexpr int32_t kPanels = 4;
    int32_t p = panel_first;
    for (; p + kPanels <= panel_end; p += kPanels) {
        float_panels<V, kType, kPanels>(y, y_stride, w, x, p);
    }
    for (; p < panel_end; ++p) {
        float_panels<V, kType, 1>(y, y_stride, w, x, p);
    }
}

}  // namespace chatloop::kernel::lanes
