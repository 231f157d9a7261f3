#include <doctest/doctest.h>

#include "kernel/reference/reference.hpp"
#include "support.hpp"

using namespace chatloop::kernel;

TEST_CASE("exp is within 2 ulp of f64 over its range") {
    double worst = 0.0;
    for (float x = -87.3f; x <= 88.3f; x += 0.000137f) {
        const double exact = std::exp(static_cast<double>(x));
        const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
        worst = std::max(worst, std::abs(static_cast<double>(reference::exp(x)) - exact) / ulp);
    }
    MESSAGE("worst error of exp: ", worst, " ulp");
    CHECK(worst <= 2.0);
}

TEST_CASE("exp at the edges") {
    CHECK(reference::exp(0.0f) == 1.0f);
    CHECK(reference::exp(-0.0f) == 1.0f);
    CHECK(reference::exp(0x1p-149f) == 1.0f);
    CHECK(reference::exp(-87.3f) > 0.0f);
    CHECK(test::same_bits(reference::exp(std::nextafter(-87.3f, -100.0f)), 0.0f));
    CHECK(test::same_bits(reference::exp(-INFINITY), 0.0f));
    CHECK(reference::exp(INFINITY) == reference::exp(88.3f));
    CHECK(std::isfinite(reference::exp(88.3f)));
    CHECK(std::isnan(reference::exp(NAN)));
}

TEST_CASE("log_f64 agrees with the library's logarithm") {
    // The absolute error of e * ln2 is at most half an ulp of it; near 1 the series is relative.
    double worst = 0.0;
    const auto compare = [&](double x) {
        const double exact = std::log(x);
        worst = std::max(worst, std::abs(log_f64(x) - exact) / std::max(std::abs(exact), 0x1p-60));
    };
    for (double x = 0x1p-1022; x < 0x1p+1023; x *= 1.0137) {
        compare(x);
    }
    for (double x = 0.5; x < 2.0; x += 0.00013) {
        compare(x);
    }
    CHECK(worst < 0x1p-50);
    CHECK(log_f64(1.0) == 0.0);
}
