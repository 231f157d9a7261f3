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
