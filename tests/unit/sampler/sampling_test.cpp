#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "chatloop/sampler/sampling.hpp"

using namespace chatloop;

namespace {

const kernel::Kernels& table(const char* name = "reference") {
    return *kernel::find_kernels(name, kernel::cpu_features());
}

std::map<uint32_t, int32_t> histogram(const std::vector<float>& logits, SamplingParams params,
                                      int32_t draws) {
    std::map<uint32_t, int32_t> counts;
    SamplingScratch scratch;
    for (int32_t i = 0; i < draws; ++i) {
        ++counts[sample(table(), logits, params, static_cast<uint32_t>(i), scratch)];
    }
    return counts;
}

// The ids that can be drawn at all.
std::set<uint32_t> support(const std::vector<float>& logits, const SamplingParams& params) {
    std::set<uint32_t> ids;
    for (const auto& [id, count] : histogram(logits, params, 3000)) {
        ids.insert(id);
    }
    return ids;
}

// Logits whose probabilities are the given ones at temperature 1.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
    std::vector<float> out;
    for (const double p : probabilities) {
        out.push_back(static_cast<float>(std::log(p)));
    }
    return out;
}

using Ids = std::set<uint32_t>;

}  // namespace

TEST_CASE("temperature 0 takes the largest logit, ties to the lowest id") {
    SamplingScratch scratch;
    const std::vector<float> logits = {-1.0f, 3.0f, -2.0f, 3.0f};
    CHECK(sample(table(), logits, {}, 0, scratch) == 1);
    const std::vector<float> zeros = {-0.0f, 0.0f};
    CHECK(sample(table(), zeros, {}, 0, scratch) == 0);
    const std::vector<float> masked = {-INFINITY, -5.0f, -INFINITY};
    CHECK(sample(table(), masked, {}, 0, scratch) == 1);
    // A temperature that f32 cannot hold is 0, whatever it was before.
    SamplingParams tiny;
    tiny.temperature = static_cast<float>(1e-60);
    CHECK(sample(table(), logits, tiny, 0, scratch) == 1);
    // The smallest one that it can hold leaves the maximum's ties, by lot.
    tiny.temperature = 0x1p-149f;
    CHECK(support(logits, tiny) == Ids{1, 3});
}

TEST_CASE("top_k: by logit, ties to the lowest id, at the boundary too") {
    const std::vector<float> logits = {1.0f, 2.0f, 1.0f, 1.0f, 0.5f};
    CHECK(support(logits, {.temperature = 1, .top_k = 1}) == Ids{1});
    CHECK(support(logits, {.temperature = 1, .top_k = 2}) == Ids{0, 1});
    CHECK(support(logits, {.temperature = 1, .top_k = 3}) == Ids{0, 1, 2});
    CHECK(support(logits, {.temperature = 1, .top_k = 5}).size() == 5);
    CHECK(support(logits, {.temperature = 1, .top_k = 99}).size() == 5);
}

TEST_CASE("top_p: the shortest prefix that reaches the share") {
    // Four equal weights: their sums are exact quarters, so the boundary is exact.
    const std::vector<float> equal(4, 1.0f);
    CHECK(support(equal, {.temperature = 1, .top_p = 0.0f}) == Ids{0});
    CHECK(support(equal, {.temperature = 1, .top_p = 0.25f}) == Ids{0});
    CHECK(support(equal, {.temperature = 1, .top_p = 0.25f + 0x1p-24f}) == Ids{0, 1});
    CHECK(support(equal, {.temperature = 1, .top_p = 0.5f}) == Ids{0, 1});
    CHECK(support(equal, {.temperature = 1, .top_p = 0.75f}) == Ids{0, 1, 2});
    CHECK(support(equal, {.temperature = 1, .top_p = 0.76f}) == Ids{0, 1, 2, 3});
    const std::vector<float> logits = logits_of({0.1, 0.5, 0.15, 0.25});
    CHECK(support(logits, {.temperature = 1, .top_p = 0.4f}) == Ids{1});
    CHECK(support(logits, {.temperature = 1, .top_p = 0.7f}) == Ids{1, 3});
    CHECK(support(logits, {.temperature = 1, .top_p = 0.8f}) == Ids{1, 2, 3});
}

TEST_CASE("min_p: a share of the largest weight, inclusive") {
    const std::vector<float> equal(3, -4.0f);
    CHECK(support(equal, {.temperature = 1, .min_p = 1.0f}) == Ids{0, 1, 2});
    const std::vector<float> logits = logits_of({0.5, 0.3, 0.15, 0.05});
    CHECK(support(logits, {.temperature = 1, .min_p = 0.5f}) == Ids{0, 1});
    CHECK(support(logits, {.temperature = 1, .min_p = 0.2f}) == Ids{0, 1, 2});
}

TEST_CASE("typical_p: nearest to the entropy first, ties to the lowest id") {
    // H = 1.09 nats; surprises 0.51, 1.61, 2.3, 2.3: distances 0.58, 0.52, 1.21, 1.21.
    const std::vector<float> logits = logits_of({0.6, 0.2, 0.1, 0.1});
    const double entropy = -(0.6 * std::log(0.6) + 0.2 * std::log(0.2) + 0.2 * std::log(0.1));
    const double near0 = std::abs(-std::log(0.6) - entropy);
    const double near1 = std::abs(-std::log(0.2) - entropy);
    REQUIRE(near1 < near0);
    CHECK(support(logits, {.temperature = 1, .typical_p = 0.1f}) == Ids{1});
    CHECK(support(logits, {.temperature = 1, .typical_p = 0.7f}) == Ids{0, 1});
    CHECK(support(logits, {.temperature = 1, .typical_p = 0.85f}) == Ids{0, 1, 2});
    const std::vector<float> equal(4, 1.0f);
    CHECK(support(equal, {.temperature = 1, .typical_p = 0.5f}) == Ids{0, 1});
}

TEST_CASE("the filters work in order, each on what is left") {
    // top_k leaves 0.5 and 0.3; of their 0.8, the first is 0.625.
    const std::vector<float> logits = logits_of({0.5, 0.3, 0.2});
    CHECK(support(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6f}) == Ids{0});
    CHECK(support(logits, {.temperature = 1, .top_k = 3, .top_p = 0.6f}) == Ids{0, 1});
    CHECK(support(logits, {.temperature = 1, .top_k = 2, .min_p = 0.61f}) == Ids{0});
}

TEST_CASE("filters that keep everything change no draw") {
    std::vector<float> logits(997);
    std::mt19937 generator(3);
    for (float& z : logits) {
        z = static_cast<float>(generator()) * 0x1p-30f;
    }
    SamplingScratch scratch;
    const SamplingParams plain = {.temperature = 1.3f, .seed = 77};
    SamplingParams whole = plain;
    whole.top_k = 996;  // shuffles, and drops the least likely alone
    whole.min_p = 1e-7f;
    SamplingParams prefix = whole;
    prefix.typical_p = std::nextafter(1.0f, 0.0f);
    prefix.top_p = std::nextafter(1.0f, 0.0f);
    logits[500] = -30.0f;  // e^-25 of the others: its absence moves no draw here
    for (uint32_t i = 0; i < 300; ++i) {
        const uint32_t expected = sample(table(), logits, plain, i, scratch);
        CHECK(sample(table("avx2"), logits, plain, i, scratch) == expected);
        CHECK(sample(table(), logits, whole, i, scratch) == expected);
        CHECK(sample(table(), logits, prefix, i, scratch) == expected);
    }
}

TEST_CASE("the distribution is the softmax: chi-square with fixed seeds") {
    const std::vector<double> p = {0.4, 0.25, 0.15, 0.1, 0.06, 0.04};
    constexpr int32_t kDraws = 20000;
    for (const uint64_t seed : {uint64_t{1}, uint64_t{2}, uint64_t{1} << 40}) {
        const auto counts = histogram(logits_of(p), {.temperature = 1, .seed = seed}, kDraws);
        double chi2 = 0.0;
        for (uint32_t id = 0; id < p.size(); ++id) {
            const double expected = p[id] * kDraws;
            const double observed = counts.contains(id) ? counts.at(id) : 0;
            chi2 += (observed - expected) * (observed - expected) / expected;
        }
        CHECK(chi2 < 20.5);  // 5 degrees of freedom: 0.1%
    }
    // At temperature 2 the odds are their square roots.
    const auto flat = histogram(logits_of({0.8, 0.2}), {.temperature = 2, .seed = 9}, kDraws);
    CHECK(std::abs(flat.at(0) / double{kDraws} - 2.0 / 3.0) < 0.015);
}

TEST_CASE("seed, choice and token index are three independent inputs") {
    std::vector<float> logits(4096, 0.0f);
    SamplingScratch scratch;
    std::set<uint32_t> seen;
    for (const uint64_t seed : {uint64_t{1}, uint64_t{1} << 32}) {
        for (const uint32_t choice : {0u, 1u}) {
            for (const uint32_t index : {0u, 1u}) {
                const SamplingParams params = {.temperature = 1, .seed = seed, .choice = choice};
                const uint32_t id = sample(table(), logits, params, index, scratch);
                CHECK(sample(table(), logits, params, index, scratch) == id);
                seen.insert(id);
            }
        }
    }
    CHECK(seen.size() == 8);
}
