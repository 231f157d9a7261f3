#include <doctest/doctest.h>

#include "support.hpp"

using namespace chatloop::kernel;
using namespace chatloop::kernel::test;

namespace {

bool same(const Quantized& a, const Quantized& b) {
    return a.q == b.q && a.sum == b.sum && same_bits(a.d, b.d) && same_bits(a.sa, b.sa);
}

}  // namespace

TEST_CASE("quantize: groups of every kind, in both tables") {
    std::vector<float> x = random_values(11 * kGroup, 3.0f, 1);
    float* group = x.data();
    const auto next = [&] { return group += kGroup; };
    group[3] = NAN;
    next()[31] = -INFINITY;
    std::fill_n(next(), kGroup, 0.0f);
    std::fill_n(next(), kGroup, -0.0f);
    std::fill_n(next(), kGroup, 0.99e-30f);
    std::fill_n(next(), kGroup, -1.01e-30f);
    std::fill_n(next(), kGroup, 0x1p-140f);
    std::fill_n(next(), kGroup, 3e38f);
    next();
    for (int32_t i = 0; i < kGroup; ++i) {
        group[i] = static_cast<float>(i) + 0.5f;  // with amax = 127: ties
    }
    group[0] = -127.0f;

    const Quantized out(kReferenceKernels, x, 1, 11 * kGroup);
    CHECK(same(out, Quantized(table(), x, 1, 11 * kGroup)));
    CHECK(same(out, Quantized(table(), x, 11, kGroup)));
    for (const size_t g : {0, 1}) {
        CHECK(std::isnan(out.d[g]));
        CHECK(std::isnan(out.sa[g]));
        CHECK(out.sum[g] == 0);
    }
    for (const size_t g : {2, 3, 4, 6}) {
        CHECK(same_bits(out.d[g], 0.0f));
        CHECK(same_bits(out.sa[g], 0.0f));
    }
    CHECK(out.sum[5] == -127 * kGroup);
    CHECK(out.sum[7] == 127 * kGroup);
    CHECK(out.d[8] == 1.0f);
    CHECK(out.q[8 * kGroup] == -127);
    CHECK(out.q[8 * kGroup + 1] == 2);  // 1.5
    CHECK(out.q[8 * kGroup + 2] == 2);  // 2.5
    CHECK(out.q[8 * kGroup + 3] == 4);  // 3.5
}

TEST_CASE("quantize: the error is at most half a step, and both tables agree on random rows") {
    for (uint32_t seed = 0; seed < 50; ++seed) {
        const float magnitude = std::ldexp(1.0f, static_cast<int32_t>(seed) - 25);
        const std::vector<float> x = random_values(4 * 96, magnitude, seed);
        const Quantized out(kReferenceKernels, x, 4, 96);
        CHECK(same(out, Quantized(table(), x, 4, 96)));
        double worst = 0.0;
        for (int32_t i = 0; i < 4 * 96; ++i) {
            const int64_t group = quantized_group(4, 3, i / 96, i % 96 / kGroup);
            const double d = static_cast<double>(out.d[group]);
            const double value = out.value(4, 96, i / 96, i % 96);
            worst = std::max(worst, std::abs(value - static_cast<double>(x[i])) / d);
        }
        CHECK(worst <= 0.5 * (1.0 + 127 * 0x1p-22));
    }
}

TEST_CASE("embedding rows: exact for every form, in both tables") {
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBf16,
                                  WeightType::kQ8, WeightType::kQ4, WeightType::kQ4Min}) {
        const int32_t k = 96, vocab = 16;
        const RandomMatrix storage(type, vocab, k, 2);
        const EmbeddingTable embedding = {type, vocab, k, storage.view.values, storage.scales.data()};
        for (const int32_t id : {0, 5, 15}) {
            std::vector<float> a(k), b(k);
            kReferenceKernels.embed(a.data(), embedding, id);
            table().embed(b.data(), embedding, id);
            CHECK(same_bits(a, b));
        }
    }
    // Q4 with a minimum, by hand: byte j holds k = j (low) and k = 16 + j (high).
    uint8_t bytes[16] = {0x2f};
    const uint16_t scales[] = {f16_from_f32(0.5f), f16_from_f32(-1.0f)};
    std::vector<float> out(kGroup);
    for (const Kernels* kernels : {&kReferenceKernels, &table()}) {
        kernels->embed(out.data(), {WeightType::kQ4Min, 1, kGroup, bytes, scales}, 0);
        CHECK(out[0] == 6.5f);
        CHECK(out[16] == 0.0f);
        CHECK(out[1] == -1.0f);
    }
}
