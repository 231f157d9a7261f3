#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "chatloop/sampler/sampling.hpp"

using namespace chatloop;

namespace {

std::vector<float> random_logits(size_t n, uint32_t seed) {
    std::mt19937 generator(seed);
    std::vector<float> out(n);
    for (float& z : out) {
        z = static_cast<float>(generator()) * 0x1p-28f - 8.0f;
    }
    return out;
}

const kernel::Kernels& table() {
    return *kernel::find_kernels("reference", kernel::cpu_features());
}

}  // namespace

TEST_CASE("log-probabilities against f64") {
    const std::vector<float> logits = random_logits(5003, 1);
    const RowStats stats = row_stats(table(), logits);
    double sum = 0.0;
    for (const float z : logits) {
        sum += std::exp(static_cast<double>(z));
    }
    // 2 ulp of exp, and 5003 / 16 + 4 roundings of the sum, all relative: so absolute in the log.
    const double bound = (5003 / 16.0 + 10) * 0x1p-24;
    for (const float z : logits) {
        const double exact = static_cast<double>(z) - std::log(sum);
        const float got = kernel::log_prob(z, stats.zmax, stats.log_sum);
        CHECK(std::abs(static_cast<double>(got) - exact) <= bound + std::abs(exact) * 0x1p-24);
    }
}

TEST_CASE("top_logprobs is the head of a full sort, ties to the lowest id") {
    std::vector<float> logits = random_logits(701, 2);
    logits[600] = logits[10] = logits[300] = 9.0f;
    const RowStats stats = row_stats(table(), logits);
    std::vector<TokenLogprob> expected;
    for (uint32_t id = 0; id < logits.size(); ++id) {
        expected.push_back({id, kernel::log_prob(logits[id], stats.zmax, stats.log_sum)});
    }
    std::stable_sort(expected.begin(), expected.end(),
                     [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
    std::vector<TokenLogprob> out;
    for (const uint32_t count : {0u, 1u, 2u, 3u, 20u, 701u, 1000u}) {
        top_logprobs(logits, stats, count, out);
        REQUIRE(out.size() == std::min<size_t>(count, logits.size()));
        for (size_t i = 0; i < out.size(); ++i) {
            CHECK(out[i].id == expected[i].id);
            CHECK(out[i].logprob == expected[i].logprob);
        }
    }
    CHECK(expected[0].id == 10);
    CHECK(expected[2].id == 600);
}
