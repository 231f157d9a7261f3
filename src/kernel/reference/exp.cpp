// Rules 9 and 10: exp and what is made of it, element by element.
#include <bit>
#include <cmath>
#include <limits>

#include "kernel/reference/reference.hpp"

namespace chatloop::kernel::reference {

float exp(float x) {
    if (x < -87.3f) {
        return 0.0f;
    }
    x = min_of(88.3f, x);  // this order keeps a NaN
    const float z = std::fma(x, 0x1.715476p+0f, 0x1.8p23f);
    const float n = z - 0x1.8p23f;
    const float b = std::fma(n, -0x1.7f7d1cp-20f, std::fma(n, -0x1.62e4p-1f, x));
    const float u = b * b;
    const float high = std::fma(0x1.0e4020p-7f, b, 0x1.573e2ep-5f);
    const float low = std::fma(0x1.555e66p-3f, b, 0x1.fffdb6p-2f);
    const float j = std::fma(std::fma(high, u, low), u, 0x1.ffffecp-1f * b);
    // z's low bits hold n in two's complement; the magic number's own low 9 bits are zero.
    const float k = std::bit_cast<float>((std::bit_cast<uint32_t>(z) + 127u) << 23);
    return std::fma(k, j, k);
}

float softcap_of(float s, float cap) {
    return cap * (1.0f - 2.0f / (exp(2.0f * (s / cap)) + 1.0f));
}

void swiglu(float* h, const float* g, const float* u, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        h[i] = (g[i] / (1.0f + exp(-g[i]))) * u[i];
    }
}

void softcap(float* x, float cap, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = softcap_of(x[i], cap);
    }
}

float max(const float* z, int64_t n) {
    Lanes maximum(-std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < n; ++i) {
        float& lane = maximum.lane[i % kLanes];
        lane = max_of(lane, z[i]);
    }
    return tree16_max(maximum);
}

float sum_exp(const float* z, float zmax, int64_t n) {
    Lanes sum(0.0f);
    for (int64_t i = 0; i < n; ++i) {
        sum.lane[i % kLanes] += exp(z[i] - zmax);
    }
    return tree16(sum);
}

void softmax_weights(float* p, const float* z, float zmax, float temperature, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        p[i] = exp((z[i] - zmax) / temperature);
    }
}

}  // namespace chatloop::kernel::reference
