// How long requests wait for workers, and that no timer is due for ever.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

using Codes = std::vector<std::string>;

TEST_CASE("installs that fail again and again do not put off no_route") {
    RouterHarness h;
    h.config.cluster.failure_threshold = 1000;
    h.remake();
    h.hear(hello_of(h.config.cluster, {kWorker, "worker-1", 3, 0, 1, {4, 16u << 20, 4, 16}}));
    h.hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {}, {}});
    h.submit("r", 3, 1);
    for (int second = 0; second < 300 && h.errors().empty(); ++second) {
        h.say(wire::Ping{1});
        const auto& routes = h.router->cluster().routes();
        if (second % 3 == 2 && !routes.empty())
            h.hear(wire::Unreachable{routes.rbegin()->first, 0, 1});
        h.tick(kSecondUs);
    }
    CHECK(h.errors() == Codes{"no_route"});
    CHECK(h.now < 70 * kSecondUs);
}

TEST_CASE("with route_wait_secs 0 a request still waits for a place") {
    RouterHarness h({4, 16u << 20, 1, 16});
    h.config.route_wait_us = 0;
    h.remake();
    h.bring_up();
    h.submit("a", 3, 5);
    h.submit("b", 3, 5);
    h.tick(200 * kMillisecondUs);
    CHECK(h.errors().empty());
}

TEST_CASE("a row that waited for company and is gone leaves no timer that is due") {
    uint32_t held = 0;
    for (TimeUs since_sent = 0; since_sent <= 10'000; since_sent += 500) {
        WindowedRouter h;
        if (!h.holds(since_sent)) continue;
        ++held;
        for (const char* id : {"a", "b", "c", "d", "e", "f", "g", "i"}) h.say(wire::Cancel{id});
        while (h.in_flight() > 0) h.answer_next();
        for (int i = 0; i < 5; ++i) {
            h.beat();
            h.tick(150 * kMillisecondUs);
        }
        CHECK(h.router->next_timer() > h.now);
    }
    CHECK(held > 0);
}
