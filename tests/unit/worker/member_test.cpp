// Membership: HELLO, WELCOME, REJECT, restarts and silence of the router, drain.
#include <doctest/doctest.h>

#include "helpers.hpp"

using namespace chatloop;
using namespace chatloop::test;

TEST_CASE("HELLO is said at once and again until WELCOME") {
    WorkerHarness h;
    h.worker->on_tick(h.now);
    h.worker->on_tick(h.now + 1000);
    CHECK(h.outbox.controls<wire::Hello>().size() == 1);
    h.now = h.worker->next_timer();
    h.worker->on_tick(h.now);
    const auto hellos = h.outbox.controls<wire::Hello>();
    REQUIRE(hellos.size() == 2);
    CHECK(hellos[0] == hellos[1]);
    CHECK(hellos[0].name == "worker");
    CHECK(h.outbox.control[0].second.sender == kSelf);
    CHECK(h.outbox.control[0].second.sequence < h.outbox.control[1].second.sequence);
    h.welcome();
    h.now += 10 * kSecondUs;
    h.worker->on_tick(h.now);
    CHECK(h.outbox.controls<wire::Hello>().size() == 2);
    CHECK(h.outbox.controls<wire::WorkerHeartbeat>().size() == 1);
}

TEST_CASE("a WELCOME for another process is not ours") {
    WorkerHarness h;
    h.worker->on_tick(h.now);
    h.hear(kRouterA, wire::Welcome{kSelf + 1, "r", 200, 4, "result"});
    h.hear(kRouterA, WorkerHarness::stage_route(1));
    CHECK(h.outbox.ever_opened.empty());
}

TEST_CASE("REJECT ends the HELLOs unless it is retryable") {
    WorkerHarness h;
    h.worker->on_tick(h.now);
    h.hear(kRouterA, wire::Reject{"full", "too many workers", true});
    CHECK_FALSE(h.worker->rejection().has_value());
    h.now += kSecondUs;
    h.worker->on_tick(h.now);
    CHECK(h.outbox.controls<wire::Hello>().size() == 2);
    h.hear(kRouterA, wire::Reject{"mismatch", "another model", false});
    CHECK(h.worker->rejection() == "another model");
    h.now += kSecondUs;
    h.worker->on_tick(h.now);
    CHECK(h.outbox.controls<wire::Hello>().size() == 2);
}

TEST_CASE("a new router incarnation takes the share over and the old state is gone") {
    InstalledStage h;
    h.stage.units = 2;
    h.data({.number = 1});
    h.unit();
    h.data({.number = 2});
    h.welcome(kRouterB);
    CHECK(h.stage.abandoned == 1);
    CHECK(h.stage.forgotten == std::vector<size_t>{0});
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.outbox.open.empty());
    h.data({.number = 3});
    CHECK(h.counters().frames_misdirected == 1);

    // One of the two WELCOMEs was late: it asks again. The new one's generations begin at 1 again.
    h.worker->on_tick(h.now);
    CHECK(h.outbox.controls<wire::Hello>().size() == 2);
    h.welcome(kRouterB);
    h.hear(kRouterB, WorkerHarness::stage_route(1));
    h.link_up("next");
    h.data({.router = kRouterB, .number = 1});
    h.run();
    CHECK(h.counters().frames_executed == 1);
}

TEST_CASE("a replaced router incarnation is never accepted again") {
    InstalledStage h;
    h.hear(kRouterA, wire::Unknown{});
    h.welcome(kRouterB);
    h.hear(kRouterB, WorkerHarness::stage_route(1));
    h.link_up("next");
    h.hear(kRouterA, wire::Fence{9});
    h.welcome(kRouterA);
    h.hear(kRouterA, wire::Unknown{});
    h.data({.router = kRouterB, .number = 1});
    h.run();
    CHECK(h.counters().frames_executed == 1);
}

TEST_CASE("a late WELCOME of a router process that is gone keeps nobody from the living one") {
    for (const bool is_member : {false, true}) {
        CAPTURE(is_member);
        InstalledStage h;  // of A, which lives; B's WELCOME was on its way since before
        if (!is_member) h.hear(kRouterA, wire::Unknown{});
        h.welcome(kRouterB);
        h.hear(kRouterA, wire::RouterHeartbeat{0, 0, {}});
        for (int i = 0; i < 110; ++i) {  // B is silent
            h.now += 100 * kMillisecondUs;
            h.worker->on_tick(h.now);
        }
        h.welcome(kRouterA);  // it has heard HELLO
        h.hear(kRouterA, WorkerHarness::stage_route(9));
        h.link_up("next");
        h.data({.generation = 9, .number = 1});
        h.run();
        CHECK(h.counters().frames_executed == 1);
    }
}

TEST_CASE("a message of an unknown router process, or UNKNOWN, starts membership anew") {
    for (const bool unknown : {false, true}) {
        CAPTURE(unknown);
        InstalledStage h;
        h.data({});
        if (unknown) {
            h.hear(kRouterA, wire::Unknown{});
        } else {
            h.hear(kRouterB, wire::RouterHeartbeat{0, 0, {}});
        }
        CHECK_FALSE(h.worker->has_work());
        CHECK(h.stage.forgotten == std::vector<size_t>{0});
        const size_t before = h.outbox.controls<wire::Hello>().size();
        h.worker->on_tick(h.now);
        CHECK(h.outbox.controls<wire::Hello>().size() == before + 1);
        h.welcome(unknown ? kRouterA : kRouterB);
        h.now += kSecondUs;
        h.worker->on_tick(h.now);
        CHECK(h.outbox.controls<wire::WorkerHeartbeat>().back().routes.empty());
    }
}

TEST_CASE("a router that is silent for 10 s is forgotten") {
    InstalledStage h;
    h.data({});
    h.now += 10 * kSecondUs;
    h.worker->on_tick(h.now);
    CHECK(h.worker->has_work());
    h.now += 1;
    h.worker->on_tick(h.now);
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.outbox.open.empty());
    CHECK(h.stage.forgotten == std::vector<size_t>{0});
    h.worker->on_tick(h.now);
    CHECK(h.outbox.controls<wire::Hello>().size() == 2);
    h.join_again();
    h.data({});
    h.run();
    CHECK(h.counters().frames_executed == 1);
}

TEST_CASE("a router whose heartbeats come rarely is silent only when it has missed some") {
    WorkerHarness h;
    h.worker->set_ready(h.now);
    h.worker->on_tick(h.now);
    h.hear(kRouterA, wire::Welcome{kSelf, "r", 15'000, 2, "result"});
    h.install();
    for (int beat = 0; beat < 2; ++beat) {
        h.data({.number = static_cast<FrameNumber>(beat + 1)});
        h.now += 15 * kSecondUs - 1;
        h.worker->on_tick(h.now);
        CHECK(h.worker->has_work());
        h.hear(kRouterA, wire::RouterHeartbeat{0, 0, {1}});
    }
    h.now += 45 * kSecondUs + 1;
    h.worker->on_tick(h.now);
    CHECK_FALSE(h.worker->has_work());
}

TEST_CASE("control bytes that are no message are counted and no sign of life") {
    InstalledStage h;
    h.now += 9 * kSecondUs;
    const wire::Bytes garbage{0x93, 0x01, 0xc1};
    h.worker->on_control("router-a", garbage, h.now);
    CHECK(h.counters().control_bad == 1);
    h.now += 2 * kSecondUs;
    h.worker->on_tick(h.now);
    CHECK(h.stage.forgotten.size() == 1);
}

TEST_CASE("a draining worker finishes its frames and leaves when its routes are fenced") {
    InstalledStage h;
    h.stage.units = 2;
    h.data({.number = 1});
    h.worker->drain(h.now);
    CHECK(h.outbox.controls<wire::WorkerHeartbeat>().back().state == wire::WorkerState::kDraining);
    h.data({.number = 2});  // what was on its way still runs
    h.run();
    CHECK(h.counters().frames_executed == 2);
    h.hear(kRouterA, WorkerHarness::stage_route(2));
    CHECK(h.outbox.ever_opened.size() == 1);  // no new routes
    h.worker->on_tick(h.now);
    CHECK_FALSE(h.worker->finished());
    h.hear(kRouterA, wire::Fence{1});
    h.worker->on_tick(h.now);
    CHECK(h.worker->finished());
    CHECK(h.outbox.controls<wire::Bye>().size() == 1);
    CHECK(h.outbox.controls<wire::Fenced>().size() == 1);
}

TEST_CASE("a drain ends by itself when the router does not let go") {
    InstalledStage h;
    h.worker->drain(h.now);
    for (int second = 0; second < 20; ++second) {
        h.worker->on_tick(h.now);
        CHECK_FALSE(h.worker->finished());
        h.now += kSecondUs;
        h.hear(kRouterA, wire::RouterHeartbeat{0, 0, {1}});
    }
    h.worker->on_tick(h.now);
    CHECK(h.worker->finished());
    CHECK(h.outbox.controls<wire::Bye>().size() == 1);
}

TEST_CASE("a second SIGTERM ends at once") {
    InstalledStage h;
    h.data({});
    h.worker->drain(h.now);
    CHECK_FALSE(h.worker->finished());
    h.worker->drain(h.now);
    CHECK(h.worker->finished());
}

TEST_CASE("a draining worker without a router just ends") {
    WorkerHarness h;
    h.worker->on_tick(h.now);
    h.worker->drain(h.now);
    h.worker->on_tick(h.now);
    CHECK(h.worker->finished());
    CHECK(h.outbox.controls<wire::Hello>().size() == 1);
    CHECK(h.outbox.controls<wire::Bye>().empty());
}
