// Rule 2 of docs/protocol.md: after FENCE nothing of those generations is executed or held.
#include <doctest/doctest.h>

#include "helpers.hpp"

using namespace chatloop;
using namespace chatloop::test;

TEST_CASE("FENCE drops queued frames, abandons the half-done one and is answered") {
    InstalledStage h;
    h.stage.units = 3;
    h.data({.number = 1});
    h.data({.number = 2});
    h.unit();  // one of three
    CHECK(h.trace == "S1");
    h.hear(kRouterA, wire::Fence{1});
    CHECK(h.stage.abandoned == 1);
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.counters().frames_fenced == 2);
    CHECK(h.outbox.open.empty());  // the link went with its egress
    CHECK(h.outbox.data.empty());
    const auto fenced = h.outbox.controls<wire::Fenced>();
    REQUIRE(fenced.size() == 1);
    CHECK(fenced[0].through == 1);
}

TEST_CASE("before FENCED the worker says how far it had come, once") {
    InstalledStage h;
    h.stage.units = 1;
    h.data({.number = 1});
    h.data({.number = 2});
    h.unit();
    const size_t before = h.outbox.control.size();
    h.hear(kRouterA, wire::Fence{1});
    REQUIRE(h.outbox.control.size() == before + 2);
    const auto* beat =
        std::get_if<wire::WorkerHeartbeat>(&h.outbox.control[before].second.body);
    REQUIRE(beat != nullptr);
    REQUIRE(beat->routes.size() == 1);
    CHECK(beat->routes[0].generation == 1);
    CHECK(beat->routes[0].accepted == 2);
    CHECK(beat->routes[0].forwarded == 1);
    h.hear(kRouterA, wire::Fence{1});
    CHECK(h.outbox.control.size() == before + 3);  // FENCED alone
}

TEST_CASE("a late frame of a fenced generation is dropped without a report") {
    InstalledStage h;
    h.hear(kRouterA, wire::Fence{1});
    h.data({.number = 1});
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.counters().frames_fenced == 1);
    CHECK(h.outbox.controls<wire::Gap>().empty());
}

TEST_CASE("FENCE is idempotent and cumulative, and never goes back") {
    InstalledStage h;
    h.hear(kRouterA, wire::Fence{5});
    h.hear(kRouterA, wire::Fence{5});
    h.hear(kRouterA, wire::Fence{2});
    const auto fenced = h.outbox.controls<wire::Fenced>();
    REQUIRE(fenced.size() == 3);
    for (const wire::Fenced& answer : fenced) CHECK(answer.through == 5);
    for (Generation generation = 1; generation <= 5; ++generation) {
        h.hear(kRouterA, WorkerHarness::stage_route(generation));  // a late ROUTE installs nothing
        h.data({.generation = generation});
    }
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.outbox.open.empty());
}

TEST_CASE("FENCE leaves younger generations alone") {
    InstalledStage h;
    h.stage.units = 2;
    h.hear(kRouterA, WorkerHarness::stage_route(2));
    h.link_up("next");
    h.data({.generation = 2, .number = 1});
    h.data({.generation = 1, .number = 1});
    h.unit();
    h.hear(kRouterA, wire::Fence{1});
    CHECK(h.stage.abandoned == 0);
    h.run();
    CHECK(h.counters().frames_executed == 1);
    CHECK(h.counters().frames_fenced == 1);
    REQUIRE(h.outbox.data.size() == 1);
}

TEST_CASE("ROUTE first fences what it replaces") {
    InstalledStage h;
    h.stage.units = 2;
    h.data({.number = 1});
    h.unit();
    h.hear(kRouterA, WorkerHarness::stage_route(2, 1));
    CHECK(h.stage.abandoned == 1);
    CHECK_FALSE(h.worker->has_work());
    h.link_up("next");
    CHECK(h.outbox.controls<wire::Ready>().back().generation == 2);
    h.data({.generation = 2, .number = 1});  // numbers begin anew
    h.run();
    CHECK(h.counters().frames_executed == 1);
}

TEST_CASE("a heartbeat that asks for a fence is as good as FENCE") {
    InstalledStage h;
    h.data({.number = 1});
    h.hear(kRouterA, wire::RouterHeartbeat{0, 1, {}});
    CHECK_FALSE(h.worker->has_work());
    REQUIRE(h.outbox.controls<wire::Fenced>().size() == 1);
    h.hear(kRouterA, wire::RouterHeartbeat{0, 1, {}});
    CHECK(h.outbox.controls<wire::Fenced>().size() == 1);  // they agree: nothing to say
}

TEST_CASE("one FENCED speaks for both roles of the process") {
    WorkerHarness h(true, true);
    h.join();
    h.hear(kRouterA, WorkerHarness::both_route(1, kRouterA));
    h.link_up("result");
    h.sampler.units = 3;
    h.stage.units = 3;
    h.data({.number = 1});
    h.data({.number = 2});
    for (int unit = 0; unit < 4; ++unit) h.unit();
    CHECK(h.trace == "S1S1S1H1");
    h.unit();
    CHECK(h.trace == "S1S1S1H1H1");  // and frame 2 waits at the stage
    h.hear(kRouterA, wire::Fence{1});
    CHECK(h.sampler.abandoned == 1);
    CHECK(h.stage.abandoned == 1);
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.outbox.controls<wire::Fenced>().size() == 1);
}

TEST_CASE("one router's FENCE does not touch the other router's frames") {
    WorkerHarness h(true, false, {"router-a", "router-b"});
    h.join();
    h.welcome(kRouterB, "router-b");
    h.install();
    h.hear(kRouterB, WorkerHarness::stage_route(1), "router-b");
    h.link_up("next");
    h.stage.units = 2;
    h.data({.router = kRouterB});
    h.unit();
    h.data({.router = kRouterA});
    h.hear(kRouterA, wire::Fence{9});
    CHECK(h.stage.abandoned == 0);
    h.run();
    CHECK(h.counters().frames_executed == 1);
    CHECK(h.counters().frames_fenced == 1);
}
