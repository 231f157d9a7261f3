// StageWorker over the hash model: what is refused is flagged and zeroed, everything else is
// untouched.
#include <doctest/doctest.h>

#include "chatloop/stage/stage_worker.hpp"
#include "hash_model.hpp"
#include "support/frames.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr uint32_t kBlocks = 8;  // of a share
constexpr uint32_t kShares = 2;

struct Decoded {
    wire::Bytes bytes;
    wire::DataFrame frame;

    uint64_t hash(uint32_t row) const {
        uint64_t value = 0;
        std::memcpy(&value, frame.payload.data() + row * sizeof value, sizeof value);
        return value;
    }
    bool refused(size_t item) const { return (frame.items[item].flags & wire::kItemRefused) != 0; }
};

// Stage `index` of the hash model behind a StageWorker.
struct Stage {
    explicit Stage(uint32_t index = 0)
        : compute(index, index == 0, kBlocks * kShares), worker(config()) {
        worker.set_compute(compute);
    }
    static StageConfig config() {
        StageConfig config;
        config.share = {4, 1u << 20, 4, kBlocks};
        config.shares = kShares;
        config.vocab = sim::kVocab;
        config.blocks_per_slot = 4;
        return config;
    }
    Decoded run(FrameInHand frame, size_t share = 0) {
        Decoded out;
        out.bytes = run_frame(worker, frame, wire::kFrameData, share);
        const auto header = wire::decode_header(out.bytes);
        REQUIRE(header.ok());
        auto decoded = wire::decode_frame(*header, out.bytes);
        REQUIRE(std::holds_alternative<wire::DataFrame>(decoded));
        out.frame = std::get<wire::DataFrame>(std::move(decoded));
        return out;
    }
    sim::HashStage compute;
    StageWorker worker;
};

wire::Item first_item(Slot slot, uint32_t rows, std::vector<BlockId> blocks) {
    wire::Item item;
    item.slot = slot;
    item.admission = slot + 1;
    item.rows = rows;
    item.flags = wire::kItemFirst;
    item.blocks = std::move(blocks);
    return item;
}

wire::Item next_item(Slot slot, uint32_t position, uint32_t rows, uint32_t table_index) {
    wire::Item item = first_item(slot, rows, {});
    item.flags = 0;
    item.position = position;
    item.table_index = table_index;
    return item;
}

using Ids = std::vector<uint32_t>;

}  // namespace

TEST_CASE("rows go through the compute in the order of the items") {
    Stage stage;
    const Decoded out = stage.run(frame_in_hand({first_item(0, 2, {0}), first_item(1, 1, {1})},
                                                wire::DType::kIds, 1, {5, 6, 7}));
    const auto a = sim::hash_oracle(1, Ids{5, 6});
    const auto b = sim::hash_oracle(1, Ids{7});
    REQUIRE(out.frame.rows == 3);
    CHECK(out.frame.dtype == wire::DType::kF32);
    CHECK(out.frame.width == sim::kWidth);
    CHECK(out.hash(0) == a[0]);
    CHECK(out.hash(1) == a[1]);
    CHECK(out.hash(2) == b[0]);
    CHECK(out.frame.timings.size() == 1);
    CHECK(stage.worker.items_refused() == 0);
}

TEST_CASE("a refused item is flagged and zeroed, its neighbours are not harmed") {
    for (size_t bad = 0; bad < 3; ++bad) {
        CAPTURE(bad);
        Stage stage;
        std::vector<wire::Item> items{first_item(0, 2, {0}), first_item(1, 2, {1}),
                                      first_item(2, 2, {2})};
        items[bad].flags = 0;  // continues what is not there
        const Ids ids{5, 6, 7, 8, 9, 10};
        const Decoded out = stage.run(frame_in_hand(items, wire::DType::kIds, 1, ids));
        REQUIRE(out.frame.rows == 6);
        CHECK(stage.worker.items_refused() == 1);
        for (size_t i = 0; i < 3; ++i) {
            CAPTURE(i);
            CHECK(out.refused(i) == (i == bad));
            const auto rows = sim::hash_oracle(1, std::span(ids).subspan(2 * i, 2));
            for (uint32_t r = 0; r < 2; ++r)
                CHECK(out.hash(static_cast<uint32_t>(2 * i) + r) == (i == bad ? 0 : rows[r]));
        }
        // The others go on, the refused one has nothing to go on from.
        for (Slot slot = 0; slot < 3; ++slot) {
            const Decoded next = stage.run(
                frame_in_hand({next_item(slot, 2, 1, 1)}, wire::DType::kIds, 1, {11}, 1, 2 + slot));
            CHECK(next.refused(0) == (slot == bad));
        }
    }
}

TEST_CASE("a frame whose items are all refused is forwarded all the same") {
    Stage stage;
    const Decoded out =
        stage.run(frame_in_hand({next_item(0, 3, 2, 1)}, wire::DType::kIds, 1, {5, 6}));
    CHECK(out.refused(0));
    CHECK(out.frame.rows == 2);
    CHECK(out.hash(0) == 0);
    const Decoded empty = stage.run(frame_in_hand({}, wire::DType::kIds, 1, {}));
    CHECK(empty.frame.rows == 0);
}

TEST_CASE("an item that an earlier hop refused is skipped and does not touch the slot") {
    Stage stage(1);
    std::vector<wire::Item> items{first_item(0, 1, {0}), first_item(1, 1, {1})};
    items[0].flags |= wire::kItemRefused;
    const Decoded out =
        stage.run(frame_in_hand(items, wire::DType::kF32, sim::kWidth, {9, 9, 4, 0}));
    CHECK(out.refused(0));
    CHECK_FALSE(out.refused(1));
    CHECK(out.hash(0) == 0);
    CHECK(out.hash(1) == sim::mix(1, 4));
    CHECK(stage.worker.items_refused() == 0);  // counted where it happened
    const Decoded next = stage.run(
        frame_in_hand({next_item(0, 1, 1, 1)}, wire::DType::kF32, sim::kWidth, {1, 1}, 1, 2));
    CHECK(next.refused(0));
}

TEST_CASE("ids out of the vocabulary refuse their item") {
    Stage stage;
    const Decoded out = stage.run(frame_in_hand({first_item(0, 2, {0}), first_item(1, 1, {1})},
                                                wire::DType::kIds, 1, {5, sim::kVocab, 7}));
    CHECK(out.refused(0));
    CHECK_FALSE(out.refused(1));
    CHECK(out.hash(2) == sim::hash_oracle(1, Ids{7})[0]);
    const Decoded last = stage.run(frame_in_hand({first_item(0, 1, {0})}, wire::DType::kIds, 1,
                                                 {sim::kVocab - 1}, 1, 2));
    CHECK_FALSE(last.refused(0));
}

TEST_CASE("a frame of the wrong kind has all its items refused") {
    const std::vector<wire::Item> items{first_item(0, 1, {0}), first_item(1, 1, {1})};
    Stage first;
    const Decoded rows_for_first =
        first.run(frame_in_hand(items, wire::DType::kF32, sim::kWidth, {1, 2, 3, 4}));
    CHECK(rows_for_first.refused(0));
    CHECK(rows_for_first.refused(1));
    Stage middle(1);
    const Decoded ids_for_middle = middle.run(frame_in_hand(items, wire::DType::kIds, 1, {1, 2}));
    CHECK(ids_for_middle.refused(0));
    CHECK(ids_for_middle.refused(1));
    const Decoded wide = middle.run(
        frame_in_hand(items, wire::DType::kF32, sim::kWidth + 1, {1, 2, 3, 4, 5, 6}, 1, 2));
    CHECK(wide.refused(0));
    CHECK(wide.refused(1));
    CHECK(middle.worker.items_refused() == 4);
}

TEST_CASE("a frame that carries only output rows is refused by a stage, not read beyond its end") {
    Stage stage(1);
    std::vector<wire::Item> items{first_item(0, 60, {0}), first_item(1, 50, {1})};
    items[0].outputs = {59};
    items[0].sample = wire::encode_sample({});
    const Decoded out = stage.run(frame_in_hand(items, wire::DType::kF32, sim::kWidth, {1, 2}));
    CHECK(out.refused(0));
    CHECK(out.refused(1));
    CHECK(out.frame.rows == 110);
}

TEST_CASE("the last stage forwards the rows that want output, of refused items too") {
    Stage stage;
    std::vector<wire::Item> items{first_item(0, 3, {0}), first_item(1, 2, {1}),
                                  next_item(2, 1, 2, 1)};
    items[0].outputs = {0, 2};
    items[2].outputs = {1};
    wire::Sample sample;
    sample.targets = {{4, std::nullopt}};
    items[0].sample = wire::encode_sample(sample);
    items[2].sample = wire::encode_sample({});
    FrameInHand frame = frame_in_hand(items, wire::DType::kIds, 1, {5, 6, 7, 8, 9, 10, 11});
    frame.hop.outputs_only = true;
    const Decoded out = stage.run(std::move(frame));
    const auto rows = sim::hash_oracle(1, Ids{5, 6, 7});
    REQUIRE(out.frame.rows == 3);
    CHECK(out.hash(0) == rows[0]);
    CHECK(out.hash(1) == rows[2]);
    CHECK(out.hash(2) == 0);
    CHECK(out.refused(2));
    for (size_t i = 0; i < items.size(); ++i) {
        CHECK(out.frame.items[i].rows == items[i].rows);
        CHECK(out.frame.items[i].sample == items[i].sample);  // passed on unread
    }
}

TEST_CASE("two routers with the same slots and blocks do not meet") {
    Stage stage;
    const auto prefix = [&](uint32_t id, size_t share) {
        stage.run(frame_in_hand({first_item(0, 1, {0})}, wire::DType::kIds, 1, {id}), share);
    };
    const auto next = [&](uint32_t id, size_t share) {
        return stage.run(frame_in_hand({next_item(0, 1, 1, 1)}, wire::DType::kIds, 1, {id}, 1, 2),
                         share);
    };
    prefix(5, 0);
    prefix(6, 1);
    CHECK(next(7, 0).hash(0) == sim::hash_oracle(1, Ids{5, 7})[1]);
    CHECK(next(7, 1).hash(0) == sim::hash_oracle(1, Ids{6, 7})[1]);
    stage.worker.forget(0);
    prefix(6, 1);
    CHECK(next(8, 0).refused(0));
    CHECK_FALSE(next(8, 1).refused(0));
}

TEST_CASE("after abandon the next frame starts clean") {
    Stage stage;
    FrameInHand half = frame_in_hand({first_item(0, 1, {0}), first_item(1, 1, {1})},
                                     wire::DType::kIds, 1, {5, 6});
    stage.worker.begin(0, half);
    CHECK_FALSE(stage.worker.run_unit());
    stage.worker.abandon();
    FrameInHand refused = frame_in_hand({next_item(3, 9, 1, 1)}, wire::DType::kIds, 1, {5});
    stage.worker.begin(0, refused);
    stage.worker.abandon();  // of a frame that the compute never saw
    const Decoded out = stage.run(
        frame_in_hand({first_item(1, 2, {3})}, wire::DType::kIds, 1, {8, 9}, 2));
    CHECK(out.hash(1) == sim::hash_oracle(1, Ids{8, 9})[1]);
}
