// Masks, biases and penalties against numpy (tests/data/make_penalties.py), and at their edges.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "chatloop/sampler/adjust.hpp"

using namespace chatloop;

namespace {

constexpr float kMost = std::numeric_limits<float>::max();

std::vector<float> floats_of(const nlohmann::json& bits) {
    std::vector<float> values;
    for (const auto& value : bits) values.push_back(std::bit_cast<float>(value.get<uint32_t>()));
    return values;
}

// Counted the slow way.
std::vector<wire::TokenCount> counts_of(const std::vector<uint32_t>& prompt,
                                        const std::vector<uint32_t>& output, uint32_t vocab) {
    std::vector<wire::TokenCount> counts;
    for (uint32_t id = vocab; id-- > 0;) {
        const auto in = [id](const std::vector<uint32_t>& ids) {
            return static_cast<uint32_t>(std::count(ids.begin(), ids.end(), id));
        };
        if (in(prompt) + in(output) > 0) counts.push_back({id, in(prompt), in(output)});
    }
    return counts;
}

std::vector<float> adjusted(const wire::Sample& sample, std::vector<float> z) {
    adjust_logits(sample, z);
    return z;
}

}  // namespace

TEST_CASE("adjusted logits are numpy's, bit for bit") {
    std::ifstream file(std::string(CL_TEST_DATA) + "/penalties.json");
    const nlohmann::json cases = nlohmann::json::parse(file);
    REQUIRE(cases.size() == 30);
    for (size_t i = 0; i < cases.size(); ++i) {
        CAPTURE(i);
        const nlohmann::json& golden = cases[i];
        const std::vector<float> z = floats_of(golden["logits"]);
        wire::Sample sample;
        sample.masked = golden["masked"].get<std::vector<uint32_t>>();
        for (const auto& pair : golden["bias"]) sample.logit_bias.push_back({pair[0], pair[1]});
        sample.repetition_penalty = golden["repetition"];
        sample.frequency_penalty = golden["frequency"];
        sample.presence_penalty = golden["presence"];
        sample.history = counts_of(golden["prompt"], golden["output"],
                                   static_cast<uint32_t>(z.size()));
        const std::vector<float> found = adjusted(sample, z);
        const std::vector<float> expected = floats_of(golden["adjusted"]);
        for (size_t id = 0; id < z.size(); ++id) {
            CAPTURE(id);
            CHECK(found[id] == expected[id]);  // +0 and -0 are one value to all that follows
        }
    }
}

TEST_CASE("nothing asked is nothing to adjust") {
    wire::Sample sample;
    CHECK_FALSE(adjusts(sample));
    sample.repetition_penalty = 2.0f;  // of nothing
    CHECK_FALSE(adjusts(sample));
    sample.history = {{0, 1, 0}};
    CHECK(adjusts(sample));
    sample = {};
    sample.masked = {1};
    CHECK(adjusts(sample));
    sample = {};
    sample.logit_bias = {{1, 0.0f}};
    CHECK(adjusts(sample));
}

TEST_CASE("presence and frequency look at the answer only, repetition at the prompt too") {
    wire::Sample sample;
    sample.repetition_penalty = 2.0f;
    sample.frequency_penalty = 0.25f;
    sample.presence_penalty = 1.0f;
    sample.history = {{0, 9, 0}, {1, 0, 3}, {2, 1, 1}};
    CHECK(adjusted(sample, {4, 4, -4, 4}) == std::vector<float>{2, 0.25f, -9.25f, 4});
}

TEST_CASE("a masked id stays masked, whatever else is asked for it") {
    wire::Sample sample;
    sample.masked = {1};
    sample.logit_bias = {{1, 100.0f}};
    sample.repetition_penalty = 0.5f;
    sample.frequency_penalty = sample.presence_penalty = -2.0f;
    sample.history = {{1, 5, 5}};
    CHECK(adjusted(sample, {0, 3})[1] == -INFINITY);
}

TEST_CASE("what overflows stays finite, so that it can be sampled") {
    wire::Sample sample;
    sample.repetition_penalty = std::numeric_limits<float>::denorm_min();
    sample.frequency_penalty = 2.0f;
    sample.history = {{0, 1, 0}, {1, 0, 1000}, {2, 1, 0}};
    CHECK(adjusted(sample, {5, 5, 0}) == std::vector<float>{kMost, kMost, 0});
    sample.repetition_penalty = 10.0f;
    CHECK(adjusted(sample, {-kMost, 0, kMost})[0] == -kMost);
}

TEST_CASE("what is not allowed is masked, before all else") {
    wire::Sample sample;
    sample.allowed = std::string("\x05\x02", 2);  // 0, 2 and 9
    sample.masked = {2};
    sample.logit_bias = {{0, 1.0f}, {1, 100.0f}};
    const std::vector<float> z = adjusted(sample, std::vector<float>(12, 1.0f));
    for (uint32_t id = 0; id < z.size(); ++id) {
        CAPTURE(id);
        CHECK(z[id] == (id == 0 ? 2.0f : id == 9 ? 1.0f : -INFINITY));
    }
    sample.allowed = std::string("\xff\xff\xff", 3);  // more than the vocabulary has
    CHECK(adjusted(sample, {0, 0, 0}) == std::vector<float>{1, 100, -INFINITY});
}

TEST_CASE("ids beyond the vocabulary are passed over") {
    wire::Sample sample;
    sample.masked = {2, UINT32_MAX};
    sample.logit_bias = {{2, 1.0f}};
    sample.repetition_penalty = 2.0f;
    sample.history = {{2, 1, 1}, {UINT32_MAX, 1, 1}};
    CHECK(adjusted(sample, {1, 2}) == std::vector<float>{1, 2});
}
