// Rule 10's logarithm. With m in [sqrt(1/2), sqrt(2)), |t| <= 0.1716, and
//     log(m) = 2 t (1 + t^2 / 3 + t^4 / 5 + ... ),
// stopped after t^20 / 21: the rest is below 2^-57 of the sum.
#include <bit>
#include <cmath>

#include "chatloop/core/assert.hpp"
#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel {

double log_f64(double x) {
    constexpr uint64_t kMantissa = 0x000fffffffffffff;
    constexpr uint64_t kOne = 0x3ff0000000000000;
    constexpr double kSqrt2 = 0x1.6a09e667f3bcdp+0;
    constexpr double kLn2 = 0x1.62e42fefa39efp-1;

    const uint64_t bits = std::bit_cast<uint64_t>(x);
    CL_ASSERT(x > 0.0 && bits >> 52 >= 1 && bits >> 52 <= 2046);
    int32_t exponent = static_cast<int32_t>(bits >> 52) - 1023;
    double m = std::bit_cast<double>((bits & kMantissa) | kOne);
    if (m >= kSqrt2) {
        m *= 0.5;
        exponent += 1;
    }

    const double t = (m - 1.0) / (m + 1.0);
    const double u = t * t;
    double series = 1.0 / 21.0;
    for (int32_t odd = 19; odd >= 1; odd -= 2) {
        series = std::fma(series, u, 1.0 / static_cast<double>(odd));
    }
    return std::fma(static_cast<double>(exponent), kLn2, (2.0 * t) * series);
}

}  // namespace chatloop::kernel
