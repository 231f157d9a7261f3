// The Sampler over a fake head: every frame gets one RESULT, every item its answer or its error.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "chatloop/sampler/sampler.hpp"
#include "support/frames.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr uint32_t kVocab = 6;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// A row's only value is the index of its logits.
class FakeHead final : public HeadCompute {
public:
    uint32_t width() const override { return 1; }
    uint32_t vocab() const override { return kVocab; }
    uint32_t rows_max() const override { return 4; }
    void begin(const uint8_t* payload, uint32_t rows) override {
        CHECK_FALSE(busy);
        CHECK(rows <= rows_max());
        CHECK(rows > 0);
        busy = true;
        batches.push_back(rows);
        row_ids_.resize(rows);
        std::memcpy(row_ids_.data(), payload, rows * sizeof(uint32_t));
        units_left_ = 2;
    }
    bool run_unit() override {
        busy = --units_left_ > 0;
        return !busy;
    }
    std::span<const float> logits(uint32_t row) const override {
        REQUIRE(row < row_ids_.size());
        return table.at(row_ids_[row]);
    }
    void abandon() override {
        CHECK(busy);
        busy = false;
    }

    std::vector<std::vector<float>> table{
        {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0},      {0, 9, 0, 0, 9, 0},
        {0, kNan, 0, 0, 0, 0}, {0, 0, kInf, 0, 0, 0}, {0, 0, -kInf, 0, 0, 0},
    };
    std::vector<uint32_t> batches;
    bool busy = false;

private:
    std::vector<uint32_t> row_ids_;
    int units_left_ = 0;
};

const kernel::Kernels& table() {
    return *kernel::find_kernels("reference", kernel::cpu_features());
}

struct Fixture {
    Fixture() : sampler(table()) { sampler.set_compute(head); }
    wire::ResultFrame run(FrameInHand frame) {
        const wire::Bytes bytes = run_frame(sampler, frame, wire::kFrameResult);
        const auto header = wire::decode_header(bytes);
        REQUIRE(header.ok());
        auto decoded = wire::decode_result(*header, bytes);
        REQUIRE(std::holds_alternative<wire::ResultFrame>(decoded));
        return std::get<wire::ResultFrame>(std::move(decoded));
    }
    wire::ResultFrame run(const std::vector<wire::Item>& items, const std::vector<uint32_t>& rows) {
        return run(frame_in_hand(items, wire::DType::kF32, 1, rows));
    }
    FakeHead head;
    Sampler sampler;
};

wire::Item item_of(Slot slot, uint32_t rows, std::vector<uint32_t> outputs = {},
                   const wire::Sample& sample = {}) {
    wire::Item item;
    item.slot = slot;
    item.admission = slot + 100;
    item.rows = rows;
    item.outputs = std::move(outputs);
    if (!item.outputs.empty()) item.sample = wire::encode_sample(sample);
    return item;
}

}  // namespace

TEST_CASE("a frame without outputs, or without items, has its RESULT too") {
    Fixture f;
    const auto result = f.run({item_of(3, 5), item_of(1, 2)}, {});
    REQUIRE(result.items.size() == 2);
    CHECK(result.items[0] == wire::ResultItem{3, 103, wire::ItemError::kNone, {}});
    CHECK(result.items[1] == wire::ResultItem{1, 101, wire::ItemError::kNone, {}});
    CHECK(result.timings.size() == 1);
    CHECK(f.run({}, {}).items.empty());
    CHECK(f.head.batches.empty());
}

TEST_CASE("each item is answered in its place, with its row within the item") {
    Fixture f;
    const auto result = f.run(
        {item_of(0, 3, {2}), item_of(1, 4), item_of(2, 1, {0}), item_of(3, 1, {0})}, {0, 1, 2});
    REQUIRE(result.items.size() == 4);
    CHECK(result.items[0].outputs == std::vector<wire::Output>{{2, 1, 5, 0.0f, {}}});
    CHECK(result.items[1].outputs.empty());
    CHECK(result.items[2].outputs == std::vector<wire::Output>{{0, 1, 0, 0.0f, {}}});
    CHECK(result.items[3].outputs == std::vector<wire::Output>{{0, 1, 1, 0.0f, {}}});  // lowest id
}

TEST_CASE("a refused item is reported and its rows are not looked at") {
    Fixture f;
    std::vector<wire::Item> items{item_of(0, 1, {0}), item_of(1, 1, {0}), item_of(2, 1)};
    items[0].flags = wire::kItemRefused;
    items[2].flags = wire::kItemRefused;
    const auto result = f.run(items, {3, 1});  // row 0 would not be finite
    CHECK(result.items[0] == wire::ResultItem{0, 100, wire::ItemError::kRefused, {}});
    CHECK(result.items[1].error == wire::ItemError::kNone);
    CHECK(result.items[1].outputs.at(0).token == 0);
    CHECK(result.items[2].error == wire::ItemError::kRefused);
    CHECK(f.head.batches == std::vector<uint32_t>{1});
}

TEST_CASE("a malformed sample is an error of its item only") {
    Fixture f;
    std::vector<wire::Item> items{item_of(0, 1, {0}), item_of(1, 2, {0, 1}), item_of(2, 1, {0}),
                                  item_of(3, 1, {0})};
    items[0].sample.assign(3, '\x93');
    wire::Sample hot;
    hot.temperature = kNan;
    items[2].sample = wire::encode_sample(hot);
    const auto result = f.run(items, {0, 0, 0, 0, 1});  // item 1 has two rows and no targets
    for (size_t i = 0; i < 3; ++i) {
        CAPTURE(i);
        CHECK(result.items[i].error == wire::ItemError::kMalformed);
        CHECK(result.items[i].outputs.empty());
    }
    CHECK(result.items[3].outputs.at(0).token == 0);
}

TEST_CASE("a frame of another shape has every item with outputs refused as malformed") {
    Fixture f;
    const std::vector<wire::Item> items{item_of(0, 2, {1}), item_of(1, 1)};
    for (auto* frame : {"wide", "all rows", "ids"}) {
        CAPTURE(frame);
        const std::string name = frame;
        FrameInHand in_hand =
            name == "wide" ? frame_in_hand(items, wire::DType::kF32, 2, {0, 0})
            : name == "ids" ? frame_in_hand(items, wire::DType::kIds, 1, {0, 0, 0})
                            : frame_in_hand(items, wire::DType::kF32, 1, {0, 0, 0});
        const auto result = f.run(std::move(in_hand));
        CHECK(result.items[0].error == wire::ItemError::kMalformed);
        CHECK(result.items[1].error == wire::ItemError::kNone);
    }
    CHECK(f.head.batches.empty());
}

TEST_CASE("a logit that is not finite is an error of its item, whatever else the item asked") {
    for (const uint32_t bad : {3u, 4u, 5u}) {
        CAPTURE(bad);
        Fixture f;
        wire::Sample targets;
        targets.targets = {{2u, 1u}};
        const auto result =
            f.run({item_of(0, 2, {0, 1}, targets), item_of(1, 1, {0})}, {0, bad, 1});
        CHECK(result.items[0].error == wire::ItemError::kNonFinite);
        CHECK(result.items[0].outputs.empty());
        CHECK(result.items[1].error == wire::ItemError::kNone);
        CHECK(result.items[1].outputs.size() == 1);
    }
}

TEST_CASE("targets and a sampled row in one item") {
    Fixture f;
    wire::Sample sample;
    sample.targets = {{4u, 0u, std::nullopt}};
    sample.logprobs = 3;  // two alternatives
    const auto result = f.run({item_of(0, 9, {2, 3, 8}, sample)}, {0, 0, 1});
    const auto& outputs = result.items[0].outputs;
    REQUIRE(outputs.size() == 3);
    double sum = 0.0;
    for (int i = 0; i < 6; ++i) sum += std::exp(i);
    const auto check = [&](const wire::Output& output, uint32_t row, uint8_t kind, uint32_t token,
                           double logit, uint32_t best, uint32_t second) {
        CHECK(output.row == row);
        CHECK(output.kind == kind);
        CHECK(output.token == token);
        CHECK(output.logprob == doctest::Approx(logit - std::log(sum)));
        REQUIRE(output.top.size() == 2);
        CHECK(output.top[0].token == best);
        CHECK(output.top[1].token == second);
        CHECK(output.top[0].logprob == doctest::Approx(5.0 - std::log(sum)));
    };
    check(outputs[0], 2, 2, 4, 4.0, 5, 4);
    check(outputs[1], 3, 2, 0, 0.0, 5, 4);
    check(outputs[2], 8, 1, 0, 5.0, 0, 1);
}

TEST_CASE("a target out of the vocabulary is malformed and leaves no half answer") {
    Fixture f;
    wire::Sample sample;
    sample.targets = {{1u, kVocab, std::nullopt}};
    const auto result = f.run({item_of(0, 3, {0, 1, 2}, sample), item_of(1, 1, {0})}, {0, 0, 0, 1});
    CHECK(result.items[0].error == wire::ItemError::kMalformed);
    CHECK(result.items[0].outputs.empty());
    CHECK(result.items[1].outputs.size() == 1);
}

TEST_CASE("masked ids are never sampled, at any temperature, and keep their raw log-probability") {
    for (const float temperature : {0.0f, 0.5f, 100.0f}) {
        CAPTURE(temperature);
        Fixture f;
        wire::Sample sample;
        sample.temperature = temperature;
        sample.masked = {5, 4, 2, 4'000'000};
        sample.logprobs = 1 + 6;
        for (uint32_t index = 0; index < 50; ++index) {
            sample.index = index;
            const auto result = f.run({item_of(0, 1, {0}, sample)}, {0});
            const wire::Output& output = result.items[0].outputs.at(0);
            CHECK((output.token == 0 || output.token == 1 || output.token == 3));
            REQUIRE(output.top.size() == 6);
            CHECK(output.top[0].token == 5);
        }
    }
}

TEST_CASE("a sample that masks the whole vocabulary is malformed, not a crash") {
    for (const float temperature : {0.0f, 1.0f}) {
        CAPTURE(temperature);
        Fixture f;
        wire::Sample sample;
        sample.temperature = temperature;
        sample.masked = {0, 1, 2, 3, 4, 5};
        const auto result = f.run({item_of(0, 1, {0}, sample), item_of(1, 1, {0})}, {0, 1});
        CHECK(result.items[0].error == wire::ItemError::kMalformed);
        CHECK(result.items[0].outputs.empty());
        CHECK(result.items[1].outputs.size() == 1);
    }
}

TEST_CASE("more rows than the head takes go in batches, and no answer depends on them") {
    Fixture f;
    std::vector<wire::Item> items;
    std::vector<uint32_t> rows;
    for (Slot slot = 0; slot < 11; ++slot) {
        wire::Sample sample;
        sample.temperature = 1.0f;
        sample.seed = slot;
        sample.logprobs = 1;
        items.push_back(item_of(slot, 1, {0}, sample));
        rows.push_back(slot % 3);
    }
    const auto together = f.run(items, rows);
    CHECK(f.head.batches == std::vector<uint32_t>{4, 4, 3});
    for (size_t i = 0; i < items.size(); ++i)
        CHECK(f.run({items[i]}, {rows[i]}).items[0] == together.items[i]);
}

TEST_CASE("after abandon, at any unit, the next frame starts clean") {
    const std::vector<wire::Item> items{item_of(0, 1, {0}), item_of(1, 1, {0})};
    for (int units = 0; units < 4; ++units) {
        CAPTURE(units);
        Fixture f;
        FrameInHand half = frame_in_hand(items, wire::DType::kF32, 1, {0, 1});
        f.sampler.begin(0, half);
        for (int unit = 0; unit < units; ++unit) REQUIRE_FALSE(f.sampler.run_unit());
        f.sampler.abandon();
        CHECK_FALSE(f.head.busy);
        const auto result = f.run({item_of(7, 1, {0})}, {1});
        REQUIRE(result.items.size() == 1);
        CHECK(result.items[0] ==
              wire::ResultItem{7, 107, wire::ItemError::kNone, {{0, 1, 0, 0.0f, {}}}});
    }
}
