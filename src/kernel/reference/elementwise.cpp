// Rules 4 to 6: the steps of a layer between its matrices.
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "kernel/reference/reference.hpp"

namespace chatloop::kernel::reference {

float tree16(Lanes sum) {
    for (int32_t width = kLanes / 2; width > 0; width /= 2) {
        for (int32_t i = 0; i < width; ++i) {
            sum.lane[i] += sum.lane[i + width];
        }
    }
    return sum.lane[0];
}

float tree16_max(Lanes maximum) {
    for (int32_t width = kLanes / 2; width > 0; width /= 2) {
        for (int32_t i = 0; i < width; ++i) {
            maximum.lane[i] = max_of(maximum.lane[i], maximum.lane[i + width]);
        }
    }
    return maximum.lane[0];
}

void add_bias(float* y, const float* bias, int32_t rows, int32_t n) {
    for (int32_t r = 0; r < rows; ++r) {
        add(y + int64_t{r} * n, bias, n);
    }
}

void add(float* x, const float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = x[i] + y[i];
    }
}

void scale(float* x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = x[i] * factor;
    }
}

void rms_norm(float* y, const float* x, const float* w, int32_t rows, int32_t n, float eps) {
    for (int32_t row = 0; row < rows; ++row, x += n, y += n) {
        Lanes ss(0.0f);
        for (int32_t i = 0; i < n; ++i) {
            float& lane = ss.lane[i % kLanes];
            lane = std::fma(x[i], x[i], lane);
        }
        const float r = 1.0f / std::sqrt(tree16(ss) / static_cast<float>(n) + eps);
        for (int32_t i = 0; i < n; ++i) {
            y[i] = (x[i] * r) * w[i];
        }
    }
}

void rope(float* x, int32_t heads, int32_t head_dim, int32_t rot_dim, const float* cos,
          const float* sin) {
    CL_ASSERT(rot_dim % 2 == 0 && rot_dim <= head_dim);
    const int32_t half = rot_dim / 2;
    for (int32_t h = 0; h < heads; ++h, x += head_dim) {
        for (int32_t i = 0; i < half; ++i) {
            const float x0 = x[i];
            const float x1 = x[half + i];
            x[i] = std::fma(x0, cos[i], -(x1 * sin[i]));
            x[half + i] = std::fma(x1, cos[i], x0 * sin[i]);
        }
    }
}

bool all_finite(const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        if (!std::isfinite(x[i])) {
            return false;
        }
    }
    return true;
}

}  // namespace chatloop::kernel::reference
