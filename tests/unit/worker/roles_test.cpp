// Order of work: two roles in one process, two routers (rule 4 of docs/protocol.md).
#include <doctest/doctest.h>

#include "helpers.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

struct BothRoles : WorkerHarness {
    BothRoles() : WorkerHarness(true, true) {
        join();
        hear(kRouterA, both_route(1, kRouterA));
        link_up("result");
    }
};

struct TwoRouters : WorkerHarness {
    explicit TwoRouters(bool sampler) : WorkerHarness(true, sampler, {"router-a", "router-b"}) {
        join();
        welcome(kRouterB, "router-b");
        hear(kRouterA, sampler ? both_route(1, kRouterA) : stage_route(1));
        hear(kRouterB, sampler ? both_route(1, kRouterB) : stage_route(1), "router-b");
        link_up(sampler ? "result" : "next");
    }
};

}  // namespace

TEST_CASE("a frame goes from the stage to the sampler without leaving the process") {
    BothRoles h;
    h.data({});
    h.run();
    CHECK(h.trace == "S1H1");
    REQUIRE(h.outbox.data.size() == 1);
    const wire::Bytes& bytes = h.outbox.data[0].bytes;
    const auto header = wire::decode_header(bytes);
    REQUIRE(header.ok());
    CHECK(header->type == wire::kFrameResult);
    CHECK(header->hop == 2);
    CHECK(header->destination == kRouterA);
    CHECK(header->number == 1);
    const auto result = wire::decode_result(*header, bytes);
    REQUIRE(std::holds_alternative<wire::ResultFrame>(result));
    CHECK(std::get<wire::ResultFrame>(result).timings.size() == 2);
    CHECK(h.counters().frames_executed == 2);
    CHECK(h.outbox.controls<wire::Gap>().empty());
}

TEST_CASE("the older frame's units run first") {
    BothRoles h;
    h.stage.units = 2;
    h.sampler.units = 3;
    for (FrameNumber number = 1; number <= 3; ++number) h.data({.number = number});
    h.run();
    CHECK(h.trace == "S1S1H1H1H1S2S2H2H2H2S3S3H3H3H3");
    CHECK(h.outbox.data.size() == 3);
}

TEST_CASE("both hops of the process are in the heartbeat") {
    BothRoles h;
    h.data({});
    h.unit();
    h.now += kSecondUs;
    h.worker->on_tick(h.now);
    const auto beat = h.outbox.controls<wire::WorkerHeartbeat>().back();
    REQUIRE(beat.routes.size() == 2);
    CHECK(beat.routes[0] == wire::RouteReport{1, 0, 1, 1, true, true});
    CHECK(beat.routes[1] == wire::RouteReport{1, 1, 1, 0, true, true});
    CHECK(beat.frames_held == 1);
}

TEST_CASE("two routers alternate, each in its own order and share") {
    for (const bool sampler : {false, true}) {
        CAPTURE(sampler);
        TwoRouters h(sampler);
        for (FrameNumber number = 1; number <= 4; ++number) h.data({.number = number});
        for (FrameNumber number = 1; number <= 4; ++number)
            h.data({.router = kRouterB, .number = number});
        h.run();
        using Begun = std::vector<std::pair<size_t, FrameNumber>>;
        const Begun expected{{0, 1}, {1, 1}, {0, 2}, {1, 2}, {0, 3}, {1, 3}, {0, 4}, {1, 4}};
        CHECK(h.stage.begun == expected);
        if (sampler) CHECK(h.sampler.begun == expected);
    }
}

TEST_CASE("the numbers of two routers have nothing to do with each other") {
    TwoRouters h(false);
    h.data({.number = 1});
    h.data({.number = 2});
    h.data({.router = kRouterB, .number = 2});  // a gap there
    h.run();
    CHECK(h.counters().frames_executed == 2);
    CHECK(h.outbox.controls<wire::Gap>("router-a").empty());
    CHECK(h.outbox.controls<wire::Gap>("router-b").size() == 1);
}

TEST_CASE("a worker without its second router serves the first") {
    WorkerHarness h(true, false, {"router-a", "router-b"});
    h.join();
    h.install();
    h.data({.router = kRouterB});
    CHECK(h.counters().frames_misdirected == 1);
    h.data({});
    h.run();
    CHECK(h.counters().frames_executed == 1);
}
