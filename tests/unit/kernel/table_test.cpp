// The float kernels against the reference, and the reference against f64.
#include <doctest/doctest.h>

#include "support.hpp"

using namespace chatloop::kernel;
using namespace chatloop::kernel::test;

namespace {

constexpr int32_t kSizes[] = {1, 7, 15, 16, 17, 31, 64, 149, 576};

// Runs `op` on a copy of x with both tables and compares the bits.
template <class Op>
bool agree(std::vector<float> x, Op op) {
    std::vector<float> y = x;
    op(kReferenceKernels, x);
    op(table(), y);
    return same_bits(x, y);
}

}  // namespace

TEST_CASE("elementwise kernels, with values that are not finite among the others") {
    for (const int32_t n : kSizes) {
        std::vector<float> x = random_values(static_cast<size_t>(n), 100.0f, 1);
        x[n / 2] = n % 2 == 0 ? INFINITY : -0.0f;
        x[n / 3] = n % 3 == 0 ? NAN : 0x1p-149f;
        const std::vector<float> y = random_values(static_cast<size_t>(n), 2.0f, 2);
        CHECK(agree(x, [&](auto& t, auto& v) { t.add(v.data(), y.data(), n); }));
        CHECK(agree(x, [&](auto& t, auto& v) { t.add_bias(v.data(), y.data(), 1, n); }));
        CHECK(agree(x, [&](auto& t, auto& v) { t.scale(v.data(), 0.7f, n); }));
        CHECK(agree(x, [&](auto& t, auto& v) { t.swiglu(v.data(), v.data(), y.data(), n); }));
        CHECK(agree(x, [&](auto& t, auto& v) { t.softcap(v.data(), 30.0f, n); }));
        CHECK(agree(x, [&](auto& t, auto& v) {
            t.softmax_weights(v.data(), v.data(), 50.0f, 0.7f, n);
        }));
        CHECK(agree(x, [&](auto& t, auto& v) { v = {t.max(v.data(), n)}; }));
        CHECK(agree(y, [&](auto& t, auto& v) { v = {t.max(v.data(), n)}; }));
        CHECK(agree(y, [&](auto& t, auto& v) { v = {t.sum_exp(v.data(), 2.0f, n)}; }));
        CHECK(kReferenceKernels.all_finite(y.data(), n));
        CHECK(table().all_finite(y.data(), n));
        for (const float bad : {INFINITY, -INFINITY, NAN}) {
            std::vector<float> broken = y;
            broken.back() = bad;
            CHECK(!kReferenceKernels.all_finite(broken.data(), n));
            CHECK(!table().all_finite(broken.data(), n));
        }
    }
}

TEST_CASE("rms_norm") {
    for (const int32_t n : kSizes) {
        const std::vector<float> w = random_values(static_cast<size_t>(n), 1.0f, 3);
        const std::vector<float> x = random_values(static_cast<size_t>(3 * n), 9.0f, 4);
        CHECK(agree(x, [&](auto& t, auto& v) {
            t.rms_norm(v.data(), v.data(), w.data(), 3, n, 1e-5f);
        }));
        std::vector<float> y(x.size());
        kReferenceKernels.rms_norm(y.data(), x.data(), w.data(), 3, n, 1e-5f);
        double ss = 0.0;
        for (int32_t i = 0; i < n; ++i) {
            ss += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        }
        for (int32_t i = 0; i < n; ++i) {
            const double exact = static_cast<double>(x[i]) / std::sqrt(ss / n + 1e-5) *
                                 static_cast<double>(w[i]);
            // n / 16 roundings of ss in a lane and 4 of the tree, halved by the root, then 6 more.
            const double bound = (n / 32.0 + 9.0) * 0x1p-24 * std::abs(exact) + 1e-30;
            CHECK(std::abs(static_cast<double>(y[i]) - exact) <= bound);
        }
    }
}

TEST_CASE("rope turns pairs and leaves the dims beyond rot_dim") {
    for (const int32_t rot_dim : {2, 32, 38, 64, 80}) {
        const int32_t heads = 3, head_dim = 80, half = rot_dim / 2;
        std::vector<float> cos(half), sin(half);
        for (int32_t i = 0; i < half; ++i) {
            cos[i] = std::cos(static_cast<float>(i));
            sin[i] = std::sin(static_cast<float>(i));
        }
        const std::vector<float> x = random_values(heads * head_dim, 2.0f, 5);
        const auto turn = [&](auto& t, auto& v) {
            t.rope(v.data(), heads, head_dim, rot_dim, cos.data(), sin.data());
        };
        CHECK(agree(x, turn));
        std::vector<float> y = x;
        turn(kReferenceKernels, y);
        for (int32_t i = 0; i < heads * head_dim; ++i) {
            const int32_t d = i % head_dim;
            if (d >= rot_dim) {
                CHECK(y[i] == x[i]);
            } else if (d < half) {
                const double exact =
                    static_cast<double>(x[i]) * static_cast<double>(cos[d]) -
                    static_cast<double>(x[i + half]) * static_cast<double>(sin[d]);
                CHECK(std::abs(static_cast<double>(y[i]) - exact) < 4.0 * 0x1p-23);
            }
        }
    }
}
