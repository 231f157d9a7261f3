// Rule 1 of docs/protocol.md, from the worker's side: ROUTE, READY, UNREACHABLE, heartbeats.
#include <doctest/doctest.h>

#include "helpers.hpp"

using namespace chatloop;
using namespace chatloop::test;

TEST_CASE("READY waits for the handshake of the next hop's link") {
    WorkerHarness h;
    h.join();
    h.hear(kRouterA, WorkerHarness::stage_route(1));
    CHECK(h.outbox.link_to("next") != 0);
    CHECK(h.outbox.controls<wire::Ready>().empty());
    h.link_up("next");
    CHECK(h.outbox.controls<wire::Ready>() == std::vector<wire::Ready>{{1}});
}

TEST_CASE("READY waits for the weights") {
    WorkerHarness h;
    h.worker->on_tick(h.now);
    h.welcome();
    h.install();
    CHECK(h.outbox.controls<wire::Ready>().empty());
    h.worker->set_ready(h.now);
    CHECK(h.outbox.controls<wire::Ready>() == std::vector<wire::Ready>{{1}});
    CHECK(h.outbox.controls<wire::WorkerHeartbeat>().back().state == wire::WorkerState::kReady);
}

TEST_CASE("a repeated ROUTE is answered again and opens nothing twice") {
    InstalledStage h;
    h.data({.number = 1});
    h.hear(kRouterA, WorkerHarness::stage_route(1));
    CHECK(h.outbox.controls<wire::Ready>().size() == 2);
    CHECK(h.outbox.ever_opened.size() == 1);
    CHECK(h.worker->has_work());  // and drops nothing
    h.data({.number = 2});
    h.run();
    CHECK(h.counters().frames_executed == 2);
}

TEST_CASE("a next hop that does not come up within 3 s is UNREACHABLE, once") {
    WorkerHarness h;
    h.join();
    h.hear(kRouterA, WorkerHarness::stage_route(1));
    h.now += 3 * kSecondUs - 1;
    h.worker->on_tick(h.now);
    CHECK(h.outbox.controls<wire::Unreachable>().empty());
    h.now += 1;
    h.worker->on_tick(h.now);
    h.worker->on_tick(h.now);
    const auto unreachable = h.outbox.controls<wire::Unreachable>();
    REQUIRE(unreachable.size() == 1);
    CHECK(unreachable[0] == wire::Unreachable{1, 0, kNext});
}

TEST_CASE("a hop in the same process needs no link") {
    WorkerHarness h(true, true);
    h.join();
    h.hear(kRouterA, WorkerHarness::both_route(1, kRouterA));
    CHECK(h.outbox.ever_opened.size() == 1);
    CHECK(h.outbox.link_to("result") != 0);
    h.link_up("result");
    CHECK(h.outbox.controls<wire::Ready>().size() == 1);
}

TEST_CASE("a route that asks for a role that this process has not is not installed") {
    WorkerHarness h;  // a stage only
    h.join();
    h.hear(kRouterA, wire::Route{1, 0, 4, 4,
                                 {{0, wire::kRoleStage, "next", kNext, true},
                                  {1, wire::kRoleSampler, "result", kRouterA, false}}});
    h.link_up("next");
    h.link_up("result");
    CHECK(h.outbox.controls<wire::Ready>().empty());
    CHECK(h.outbox.open.empty());  // no link is left behind
}

TEST_CASE("a ROUTE that names a role twice is refused, whatever links it would open") {
    WorkerHarness h;
    h.join();
    wire::Route route{1, 0, 4, 4, {}};
    for (uint8_t hop = 0; hop < kHopsMax; ++hop)
        route.hops.push_back({hop, wire::kRoleStage, "next", kNext, false});
    h.hear(kRouterA, route);
    CHECK(h.counters().control_bad == 1);
    CHECK(h.outbox.ever_opened.empty());
}

TEST_CASE("a ROUTE whose next hop is nobody is malformed") {
    WorkerHarness h;
    h.join();
    h.hear(kRouterA, wire::Route{1, 0, 4, 4, {{0, wire::kRoleStage, "next", 0, false}}});
    CHECK(h.counters().control_bad == 1);
    CHECK(h.outbox.ever_opened.empty());
}

TEST_CASE("generations are held up to a bound") {
    WorkerHarness h;
    h.join();
    for (Generation generation = 1; generation <= 2 * kGenerationsHeldMax; ++generation)
        h.hear(kRouterA, WorkerHarness::stage_route(generation));
    CHECK(h.outbox.open.size() == kGenerationsHeldMax);
    h.hear(kRouterA, wire::Fence{2 * kGenerationsHeldMax});
    CHECK(h.outbox.open.empty());
}

TEST_CASE("the heartbeat says all that is installed, accepted, forwarded and held") {
    InstalledStage h;
    h.worker->note_loop_gap(1234);
    h.worker->note_loop_gap(99);
    for (FrameNumber number = 1; number <= 3; ++number) h.data({.number = number});
    h.unit();
    h.outbox.waiting[h.outbox.link_to("next")] = 1;
    h.now += 200 * kMillisecondUs;
    CHECK(h.worker->next_timer() <= h.now);
    h.worker->on_tick(h.now);
    const auto beat = h.outbox.controls<wire::WorkerHeartbeat>().back();
    CHECK(beat.state == wire::WorkerState::kReady);
    CHECK(beat.loop_gap_us == 1234);
    CHECK(beat.frames_held == 2);
    CHECK(beat.fenced_through == 0);
    REQUIRE(beat.routes.size() == 1);
    CHECK(beat.routes[0] == wire::RouteReport{1, 0, 3, 1, true, false});
    CHECK(h.worker->next_timer() == h.now + 200 * kMillisecondUs);

    h.hear(kRouterA, wire::Fence{4});
    h.now += 200 * kMillisecondUs;
    h.worker->on_tick(h.now);
    const auto after = h.outbox.controls<wire::WorkerHeartbeat>().back();
    CHECK(after.loop_gap_us == 0);  // since the last heartbeat
    CHECK(after.frames_held == 0);
    CHECK(after.fenced_through == 4);
    CHECK(after.routes.empty());
}

TEST_CASE("a link that breaks is told at once, and that it was down is not hidden by its return") {
    InstalledStage h;
    const size_t before = h.outbox.controls<wire::WorkerHeartbeat>().size();
    const LinkId link = h.outbox.link_to("next");
    h.worker->on_link(link, false, h.now);
    h.worker->on_link(link, true, h.now);
    const auto beats = h.outbox.controls<wire::WorkerHeartbeat>();
    REQUIRE(beats.size() == before + 1);
    REQUIRE(beats.back().routes.size() == 1);
    CHECK_FALSE(beats.back().routes[0].link_up);
    CHECK(h.outbox.controls<wire::Ready>().size() == 1);
    h.worker->on_link(12345, false, h.now);  // a link that is nobody's
}
