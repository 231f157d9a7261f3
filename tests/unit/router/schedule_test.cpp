// Which rows share a frame, and how many frames are on their way.
#include <doctest/doctest.h>

#include <algorithm>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr wire::Share kRoomy = {8, 64u << 20, 16, 128};

struct Lane : UpRouter {
    explicit Lane(uint32_t stages = 1) : UpRouter(kRoomy, 512, stages) {}

    size_t in_flight() const { return frames() - answered; }
    void answer_next() {
        REQUIRE(answered < frames());
        answer(result_of(answered));
        ++answered;
    }
    void answer_some(int count) {
        for (int i = 0; i < count; ++i) answer_next();
    }
    // Rows of each item of the newest frames, the newest last.
    std::vector<std::vector<uint32_t>> newest(size_t count) const {
        std::vector<std::vector<uint32_t>> shapes;
        for (size_t i = frames() - count; i < frames(); ++i) {
            std::vector<uint32_t>& rows = shapes.emplace_back();
            for (const wire::Item& item : frame(i).frame.items) rows.push_back(item.rows);
        }
        return shapes;
    }
    bool all_done(size_t requests) {
        answer_all();
        return heard<wire::Done>().size() == requests && errors().empty();
    }
};

using Shapes = std::vector<std::vector<uint32_t>>;

}  // namespace

TEST_CASE("streams that started apart on one stage share a frame, one at a time") {
    Lane h;
    h.submit("a", 3, 50);
    h.answer_some(5);
    for (const char* id : {"b", "c"}) {
        h.submit(id, 5, 50);
        CHECK(h.in_flight() == 1);  // it waits for the frame that is composed next
        h.answer_some(2);
    }
    for (int i = 0; i < 10; ++i) {
        CHECK(h.in_flight() == 1);
        CHECK(h.newest(1) == Shapes{{1, 1, 1}});
        h.answer_next();
    }
    CHECK(h.all_done(3));
}

TEST_CASE("with two stages the streams are two even micro-batches of two rows at least") {
    Lane h(2);
    h.submit("a", 3, 60);
    h.answer_some(3);
    for (const char* id : {"b", "c"}) {
        h.submit(id, 3, 60);
        h.answer_some(4);
        CHECK(h.in_flight() == 1);
    }
    CHECK(h.newest(1) == Shapes{{1, 1, 1}});
    for (const char* id : {"d", "e"}) h.submit(id, 3, 60);
    h.answer_some(10);
    for (int i = 0; i < 10; ++i) {
        CHECK(h.in_flight() == 2);
        Shapes shapes = h.newest(2);
        std::sort(shapes.begin(), shapes.end());
        CHECK(shapes == Shapes{{1, 1}, {1, 1, 1}});
        h.answer_next();
    }
    CHECK(h.all_done(5));
}

TEST_CASE("more streams than a frame takes: full frames, one more than stages on its way") {
    Lane h;
    for (const char* id : {"a", "b", "c", "d", "e", "f", "g", "i"}) h.submit(id, 1, 30);
    h.answer_some(6);
    for (int i = 0; i < 10; ++i) {
        CHECK(h.in_flight() == 2);
        CHECK(h.newest(2) == Shapes{{1, 1, 1, 1}, {1, 1, 1, 1}});
        h.answer_next();
    }
    CHECK(h.all_done(8));
}

TEST_CASE("prompts alone keep one frame more than stages on its way") {
    for (const uint32_t stages : {1u, 2u}) {
        CAPTURE(stages);
        Lane h(stages);
        for (const char* id : {"a", "b"}) h.submit(id, 250, 1);
        CHECK(h.in_flight() == stages + 1);
        CHECK(h.all_done(2));
    }
}

TEST_CASE("a newcomer's prompt rides with the running streams: none waits for a frame without it") {
    Lane h;
    for (const char* id : {"a", "b"}) h.submit(id, 1, 30);
    h.answer_some(4);
    h.submit("long", 250, 2);
    h.answer_next();
    for (const uint32_t rows : {94u, 94u, 62u}) {  // whole tiles of 16, all rows together
        CHECK(h.in_flight() == 1);
        CHECK(h.newest(1) == Shapes{{1, 1, rows}});
        h.answer_next();
    }
    CHECK(h.newest(1) == Shapes{{1, 1, 1}});
    CHECK(h.all_done(3));
}

TEST_CASE("a prompt keeps every stage at work, also beside a single running stream") {
    Lane h(2);
    h.submit("a", 1, 30);
    h.answer_some(4);
    h.submit("long", 250, 2);
    CHECK(h.in_flight() == 2);
    CHECK(h.newest(1) == Shapes{{96}});
    h.answer_next();
    CHECK(h.newest(2) == Shapes{{96}, {1, 95}});
    CHECK(h.all_done(2));
}

TEST_CASE("frames_in_flight sets the number of frames and so their size") {
    struct Two : RouterHarness {
        Two() : RouterHarness(kRoomy) {
            config.max_batch_size = 32;
            config.frames_in_flight = 2;
            remake();
            bring_up();
        }
    } h;
    for (const char* id : {"a", "b", "c", "d", "e", "f"}) h.submit(id, 1, 30);
    for (int i = 0; i < 10; ++i, ++h.answered) h.answer(h.result_of(h.answered));
    CHECK(h.frames() - h.answered == 2);
    CHECK(h.frame(h.frames() - 1).frame.items.size() == 3);
    CHECK(h.frame(h.frames() - 2).frame.items.size() == 3);
}

TEST_CASE("rows of a prompt join a frame while its predicted time stays under the slice") {
    struct Timed : RouterHarness {
        Timed() : RouterHarness(kRoomy) {
            config.context_length = 8192;
            config.prefill_rows = 256;
            config.prefill_slice_us = 20 * kMillisecondUs;
            remake();
            bring_up();
        }
        // 2 ms and 0.4 ms a row: 45 rows are 20 ms.
        uint32_t answer_one() {
            wire::ResultFrame result = result_of(answered);
            const uint32_t rows = frame(answered).frame.rows;
            result.timings = {{0, 2000 + 400 * rows}, {0, 0}};
            now += 2000 + 400 * rows;
            answer(result);
            ++answered;
            return rows;
        }
    } h;
    for (const char* id : {"a", "b"}) h.submit(id, 1, 200);
    for (int i = 0; i < 20; ++i) h.answer_one();
    h.submit("long", 4000, 2);
    for (int i = 0; i < 4; ++i) h.answer_one();  // the first of them taught what rows cost
    for (int i = 0; i < 20; ++i) CHECK(h.answer_one() == 32);  // whole tiles, with the decode rows
    // Another stream of one row a frame takes from the prompt, not from the bound.
    h.submit("c", 1, 100);
    for (int i = 0; i < 20; ++i) CHECK(h.answer_one() <= 45);
    // A slice for each prompt that waits, three at most.
    h.submit("second", 2000, 2);
    h.answer_one();
    CHECK(h.answer_one() == 80);
    for (const char* id : {"third", "fourth", "fifth"}) h.submit(id, 2000, 2);
    h.answer_one();
    for (int i = 0; i < 20; ++i) CHECK(h.answer_one() == 144);
}

TEST_CASE("half of a frame's prompt rows are the first in line's, the rest whoever needs least") {
    Lane h;
    h.submit("a", 1, 50);
    h.answer_some(2);
    for (const auto& [id, rows] : {std::pair("long", 240u), {"longer", 250u}, {"short", 10u}})
        h.submit(id, rows, 2);
    h.answer_next();
    CHECK(h.newest(1) == Shapes{{1, 48, 10, 37}});  // of 95 rows
    CHECK(h.all_done(4));
}

TEST_CASE("a frame of less than its share waits a moment for one that is about to come back") {
    uint32_t held = 0, left_at_once = 0;
    for (TimeUs since_sent = 0; since_sent <= 10'000; since_sent += 500) {
        WindowedRouter h;
        if (!h.holds(since_sent)) {
            ++left_at_once;
            continue;
        }
        ++held;
        const TimeUs due = h.router->next_timer();
        CHECK(due == h.now + 2 * kMillisecondUs);
        h.now = due;
        h.router->on_tick(h.now);
        CHECK(h.in_flight() == 2);  // nobody waits for ever
    }
    CHECK(held > 0);
    CHECK(left_at_once > 0);
}
