// Which route goes on with what, who is waited for, and whom the cluster avoids.
#include <doctest/doctest.h>

#include "cluster_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr uint8_t kBoth = wire::kRoleStage | wire::kRoleSampler;

// Two stages and a sampler, up in generation 1.
struct UpRoute : ClusterHarness {
    UpRoute() : ClusterHarness(4) {
        config.failure_threshold = 4;
        cluster = std::make_unique<Cluster>(config, outbox, *this);
        stage(10, "first", 0, 2);
        stage(20, "last", 2, 4);
        sampler(30, "sampler");
        REQUIRE(form_and_beat() == 1);
        bring_up(1);
        REQUIRE(up == std::vector<Generation>{1});
    }
    // All that are not in `silent` speak.
    void beat_all(std::set<Incarnation> silent = {}) {
        for (const auto& [incarnation, worker] : cluster->workers()) {
            if (silent.contains(incarnation)) continue;
            std::vector<wire::RouteReport> reports;
            for (const auto& [generation, route] : cluster->routes())
                for (size_t hop = 0; hop < route.hops.size(); ++hop)
                    if (route.hops[hop] == incarnation)
                        reports.push_back({generation, static_cast<uint8_t>(hop), route.sent,
                                           route.answered, true, true});
            alive.push_back({incarnation, std::move(reports)});
        }
        for (auto& [incarnation, reports] : alive)
            beat(incarnation, std::move(reports), wire::WorkerState::kReady, fenced);
        alive.clear();
    }
    void run(TimeUs us, std::set<Incarnation> silent = {}) {
        for (const TimeUs until = now + us; now < until;) {
            beat_all(silent);
            tick(100 * kMillisecondUs);
        }
    }
    Generation form_and_beat() {
        run(600 * kMillisecondUs);
        return cluster->routes().empty() ? 0 : cluster->routes().rbegin()->first;
    }
    const Route& newest() { return cluster->routes().rbegin()->second; }

    Generation fenced = 0;
    std::vector<std::pair<Incarnation, std::vector<wire::RouteReport>>> alive;
};

}  // namespace

TEST_CASE("the same stages go on with their KV, whoever samples") {
    UpRoute h;
    const auto kv = h.cluster->find_route(1)->kv;
    h.restart(30, {31, "sampler", wire::kRoleSampler, 0, 0});
    CHECK(h.died == std::vector<Incarnation>{30});
    REQUIRE(h.down.size() == 1);
    CHECK(h.kv_lost.empty());
    REQUIRE(h.form_and_beat() == 2);
    CHECK(h.newest().succeeds == 1);
    CHECK(h.newest().kv == kv);
    CHECK(h.newest().hops == std::vector<Incarnation>{10, 20, 31});
    h.bring_up(2);
    CHECK(h.kv_lost.empty());
}

TEST_CASE("a stage of another incarnation has nothing, and so has the route") {
    UpRoute h;
    const auto kv = h.cluster->find_route(1)->kv;
    h.restart(20, {21, "last", wire::kRoleStage, 2, 4});
    CHECK(h.died == std::vector<Incarnation>{20});
    CHECK(h.kv_lost == std::vector<Generation>{1});
    REQUIRE(h.form_and_beat() == 2);
    CHECK(h.newest().succeeds == 0);
    CHECK(h.newest().kv != kv);
}

TEST_CASE("HELLO of a member that has spoken: its tables are empty") {
    UpRoute h;
    h.cluster->debit(*h.cluster->find_route(1), 100);
    h.hear(20, hello_of(h.config, {20, "last", wire::kRoleStage, 2, 4}));
    CHECK(h.down.size() == 1);
    CHECK(h.kv_lost == std::vector<Generation>{1});
    CHECK(h.died.empty());
    CHECK(h.cluster->workers().at(20).credit.frames_out() == 0);
    CHECK(h.cluster->workers().at(10).credit.frames_out() == 1);  // it has not fenced yet
    REQUIRE(h.form_and_beat() == 2);
    CHECK(h.newest().succeeds == 0);
    h.bring_up(2);
    CHECK(h.cluster->workers().at(10).credit.frames_out() == 0);
}

TEST_CASE("a spare takes over at once for a silent one, which is not waited for") {
    UpRoute h;
    h.stage(21, "last-spare", 2, 4);
    h.run(700 * kMillisecondUs, {20});
    CHECK(h.down.empty());
    h.run(400 * kMillisecondUs, {20});
    REQUIRE(h.down.size() == 1);
    REQUIRE(h.cluster->routes().size() == 1);
    CHECK(h.newest().hops == std::vector<Incarnation>{10, 21, 30});
    CHECK(h.kv_lost.empty());  // the silent one may be back before that is up
    h.bring_up(h.newest().generation);
    CHECK(h.kv_lost == std::vector<Generation>{1});
    h.run(kSecondUs);
    CHECK(h.cluster->routes().size() == 1);  // the one that is back is the spare
}

TEST_CASE("without a spare it is waited for, ten times as long") {
    UpRoute h;
    h.run(7900 * kMillisecondUs, {20});
    CHECK(h.down.size() == 1);
    CHECK(h.kv_lost.empty());
    SUBCASE("and goes on when it is back") {
        REQUIRE(h.form_and_beat() == 2);
        CHECK(h.newest().succeeds == 1);
    }
    SUBCASE("and is given up then") {
        h.run(400 * kMillisecondUs, {20});
        CHECK(h.kv_lost == std::vector<Generation>{1});
        CHECK_FALSE(h.cluster->workers().contains(20));
        h.beat(20);
        CHECK(h.outbox.controls<wire::Unknown>(peer_of(20)).size() == 1);
    }
}

TEST_CASE("a suspect gets no new work, and is trusted again when it speaks") {
    UpRoute h;
    CHECK(h.cluster->takes_new(h.newest()));
    h.run(600 * kMillisecondUs, {20});
    CHECK(h.down.empty());
    CHECK_FALSE(h.cluster->takes_new(h.newest()));
    h.beat_all();
    CHECK(h.cluster->takes_new(h.newest()));
}

TEST_CASE("who cannot be reached is gone after 250 ms, unless it is back") {
    for (const bool back : {true, false}) {
        CAPTURE(back);
        UpRoute h;
        h.cluster->on_unreachable(peer_of(10), h.now);
        h.cluster->on_unreachable(peer_of(10), h.now);
        CHECK(h.down.size() == 1);
        h.run(200 * kMillisecondUs, {10});
        CHECK(h.kv_lost.empty());
        CHECK(h.cluster->next_timer() <= h.now + 50 * kMillisecondUs);
        h.run(200 * kMillisecondUs, back ? std::set<Incarnation>{} : std::set<Incarnation>{10});
        CHECK(h.kv_lost.empty() == back);
        CHECK(h.died.empty() == back);
    }
}

TEST_CASE("what cannot go on moves to a route that is up") {
    UpRoute h;
    h.join({40, "whole", kBoth, 0, 4});
    REQUIRE(h.form_and_beat() == 2);
    h.bring_up(2);
    h.cluster->fault(1, "test", h.now);
    CHECK(h.kv_lost.empty());  // its own stages are well
    h.run(300 * kMillisecondUs);
    REQUIRE(h.newest().succeeds == 1);
    h.cluster->on_unreachable(peer_of(20), h.now);
    CHECK(h.kv_lost == std::vector<Generation>{1});
}

TEST_CASE("a frame that left a hop and did not arrive: two heartbeats in a row, then a fault") {
    struct Case {
        size_t late;       // the hop that does not accept; 3: we do not hear of it
        bool egress_empty;
        bool is_fault;
    };
    for (const Case c : {Case{0, true, true}, {1, true, true}, {2, true, true}, {3, true, true},
                         {1, false, false}}) {
        CAPTURE(c.late);
        CAPTURE(c.egress_empty);
        UpRoute h;
        h.cluster->debit(*h.cluster->find_route(1), 1);
        const auto beats = [&] {
            for (size_t hop = 0; hop < 3 && h.down.empty(); ++hop) {
                const FrameNumber accepted = hop >= c.late ? 0 : 1;
                h.beat(h.newest().hops[hop], {{1, static_cast<uint8_t>(hop), accepted, accepted,
                                               true, hop + 1 == c.late ? c.egress_empty : true}});
            }
            h.tick(200 * kMillisecondUs);
        };
        beats();
        CHECK(h.down.empty());
        for (int i = 0; i < 3 && h.down.empty(); ++i) beats();
        CHECK(h.down.empty() == !c.is_fault);
        if (c.is_fault) CHECK(h.down[0].second == "a frame was lost on its way");
    }
}

TEST_CASE("a frame that is under way is not lost: each heartbeat sees another") {
    UpRoute h;
    for (FrameNumber sent = 1; sent < 30; ++sent) {
        h.cluster->debit(*h.cluster->find_route(1), 1);
        h.beat(10, {{1, 0, sent - 1, sent - 1, true, true}});
        h.beat(20, {{1, 1, sent - 1, sent - 1, true, true}});
        h.beat(30, {{1, 2, sent - 1, sent - 1, true, true}});
        h.cluster->credit(*h.cluster->find_route(1), 1);
        h.tick(200 * kMillisecondUs);
    }
    CHECK(h.down.empty());
}

TEST_CASE("three faults in a minute: others are preferred for half a minute, if there are any") {
    for (const bool with_spare : {true, false}) {
        CAPTURE(with_spare);
        UpRoute h;
        if (with_spare) h.stage(9, "last-spare", 2, 4);
        for (int i = 0; i < 3; ++i) {
            const Generation generation = h.newest().generation;
            const Incarnation last = h.newest().hops[1];
            CHECK(last == 20);
            h.hear(last, wire::Gap{generation, 1, 2, 3, wire::GapReason::kNumber});
            REQUIRE(h.form_and_beat() > generation);
            h.bring_up(h.newest().generation);
        }
        CHECK(h.newest().hops[1] == (with_spare ? 9 : 20));
        CHECK(h.kv_lost.size() == (with_spare ? 1 : 0));
        const WorkerPeer& worker = h.cluster->workers().at(20);
        CHECK(h.cluster->is_avoided(worker, h.now));
        CHECK_FALSE(h.cluster->is_avoided(worker, h.now + 30 * kSecondUs));
    }
}

TEST_CASE("a draining worker: whether others could go on") {
    UpRoute h;
    h.beat(20, {{1, 1, 0, 0, true, true}}, wire::WorkerState::kDraining);
    CHECK_FALSE(h.cluster->has_alternative(h.newest()));
    h.stage(21, "last-spare", 2, 4);
    CHECK(h.cluster->has_alternative(h.newest()));
    h.cluster->hand_over(1, h.now);
    h.tick();
    REQUIRE(h.cluster->routes().size() == 1);
    CHECK(h.newest().hops == std::vector<Incarnation>{10, 21, 30});
    h.bring_up(2);
    CHECK(h.kv_lost == std::vector<Generation>{1});
    h.hear(20, wire::Bye{"drained"});
    CHECK(h.died.empty());
    CHECK(h.down.size() == 1);
}

TEST_CASE("the stages of a route that is up hold nothing for another one") {
    UpRoute h;
    h.stage(21, "last-spare", 2, 4);
    h.run(1100 * kMillisecondUs, {20});
    REQUIRE(h.down.size() == 1);
    const Generation next = h.newest().generation;
    REQUIRE(h.newest().hops == std::vector<Incarnation>{10, 21, 30});
    h.hear(30, wire::Ready{next});
    h.run(500 * kMillisecondUs, {20, 30});
    for (const Incarnation worker : {10, 21}) h.hear(worker, wire::Ready{next});
    h.cluster->on_link(h.newest().link, true, h.now);
    REQUIRE(h.up.back() == next);
    CHECK(h.kv_lost == std::vector<Generation>{1});
    h.beat(20);
    h.beat(30, {{next, 2, 0, 0, true, true}});
    REQUIRE(h.cluster->takes_new(*h.cluster->find_route(next)));  // frames leave
    h.cluster->fault(next, "test", h.now);
    h.fenced = next;
    h.beat_all();
    h.tick(200 * kMillisecondUs);
    REQUIRE(!h.cluster->routes().empty());
    CHECK(h.newest().succeeds != 1);
}

TEST_CASE("who was out of reach before a pause of our own has time to come back") {
    UpRoute h;
    h.cluster->on_unreachable(peer_of(10), h.now);
    h.now += 2 * kSecondUs;  // we are stopped; it is back, its messages are not read yet
    h.cluster->rearm(h.now);
    h.cluster->on_tick(h.now);
    CHECK(h.died.empty());
}

TEST_CASE("a sampler that cannot reach us is left for another one") {
    UpRoute h;
    h.sampler(40, "sampler-2");
    h.cluster->fault(1, "test", h.now);
    h.fenced = 1;
    for (int i = 0; i < 20; ++i) {
        h.beat_all();
        h.tick(200 * kMillisecondUs);
        if (h.cluster->routes().empty()) continue;
        const Generation generation = h.newest().generation;
        if (h.newest().hops.back() == 40) break;
        h.hear(30, wire::Unreachable{generation, 2, kRouter});
        h.fenced = generation;
    }
    REQUIRE(!h.cluster->routes().empty());
    CHECK(h.newest().hops.back() == 40);
}

TEST_CASE("one edge is bad for good, and there is a spare at one end of it only") {
    for (const bool near_end : {true, false}) {
        CAPTURE(near_end);
        UpRoute h;
        const Incarnation spare = near_end ? 11 : 21;
        if (near_end) h.stage(spare, "first-spare", 0, 2);
        else h.stage(spare, "last-spare", 2, 4);
        const std::vector<Incarnation> good =
            near_end ? std::vector<Incarnation>{11, 20, 30} : std::vector<Incarnation>{10, 21, 30};
        h.beat(10, {{1, 0, 0, 0, false, true}});
        REQUIRE(h.down.size() == 1);
        for (int tried = 0; tried < 20 && h.up.size() == 1; ++tried) {
            h.fenced = h.form_and_beat() - 1;
            REQUIRE(h.cluster->routes().size() == 1);
            const Generation generation = h.newest().generation;
            if (h.newest().hops == good) h.bring_up(generation);
            else h.hear(10, wire::Unreachable{generation, 0, h.newest().hops[1]});
        }
        REQUIRE(h.up.size() == 2);
        CHECK(h.newest().hops == good);
        CHECK(h.kv_lost == std::vector<Generation>{1});
        CHECK(h.down.size() <= 3);  // it is not tried over and over
    }
}

TEST_CASE("two edges are bad for good: each stage finds another one that it reaches") {
    UpRoute h;
    h.stage(11, "other-first", 0, 2);
    h.stage(21, "other-last", 2, 4);
    h.sampler(31, "other-sampler");
    h.form_and_beat();
    h.bring_up(2);
    REQUIRE(h.newest().hops == std::vector<Incarnation>{11, 21, 31});
    const std::set<std::pair<Incarnation, Incarnation>> bad = {{10, 20}, {11, 21}};
    const TimeUs cut_at = h.now;
    h.cluster->fault(1, "cut", h.now);
    h.run(300 * kMillisecondUs);
    h.cluster->fault(2, "cut", h.now);  // so that they are never free at the same moment
    const auto all_up = [&] {
        const auto& routes = h.cluster->routes();
        return routes.size() == 2 && routes.begin()->second.up && h.newest().up;
    };
    while (!all_up() && h.now - cut_at < 30 * kSecondUs) {
        h.run(100 * kMillisecondUs);
        const std::map<Generation, Route> routes = h.cluster->routes();
        for (const auto& [generation, route] : routes) {
            const bool is_bad = bad.contains({route.hops[0], route.hops[1]});
            if (!route.up && !is_bad) h.bring_up(generation);
            if (is_bad && h.now - route.installed_at >= 3 * kSecondUs)
                h.hear(route.hops[0], wire::Unreachable{generation, 0, route.hops[1]});
        }
    }
    REQUIRE(all_up());
    CHECK(h.now - cut_at <= 7 * kSecondUs);
    for (const auto& [generation, route] : h.cluster->routes())
        CHECK_FALSE(bad.contains({route.hops[0], route.hops[1]}));
}

TEST_CASE("a stage that is avoided goes on with its KV where nobody is better") {
    UpRoute h;
    h.cluster->fault(1, "test", h.now);
    h.fenced = h.form_and_beat() - 1;
    REQUIRE(h.newest().hops == std::vector<Incarnation>{10, 20, 30});
    h.hear(10, wire::Unreachable{h.newest().generation, 0, 20});
    h.fenced = h.form_and_beat() - 1;
    CHECK(h.newest().hops == std::vector<Incarnation>{10, 20, 30});
    CHECK(h.newest().succeeds == 1);
    h.bring_up(h.newest().generation);
    CHECK(h.kv_lost.empty());
}

TEST_CASE("the router's own edge to a first stage is bad: 3 s, then a spare, and it is avoided") {
    UpRoute h;
    h.stage(11, "first-spare", 0, 2);
    h.cluster->on_link(h.newest().link, false, h.now);
    REQUIRE(h.down.size() == 1);
    for (int i = 0; i < 5 && (h.cluster->routes().empty() || h.newest().hops[0] == 10); ++i) {
        h.fenced = h.form_and_beat() - 1;
        REQUIRE(h.cluster->routes().size() == 1);
        const Generation generation = h.newest().generation;
        if (h.newest().hops[0] == 11) break;
        for (const Incarnation worker : h.newest().workers) h.hear(worker, wire::Ready{generation});
        h.run(2200 * kMillisecondUs);
        CHECK(h.down.size() == 1);  // a slow network has time
        h.run(kSecondUs);
        REQUIRE(h.down.size() == 2);
        CHECK(h.down[1].second == "the route did not come up");
    }
    CHECK(h.newest().hops == std::vector<Incarnation>{11, 20, 30});
    CHECK(h.cluster->is_avoided(h.cluster->workers().at(10), h.now));
    CHECK_FALSE(h.cluster->is_avoided(h.cluster->workers().at(20), h.now));
    h.bring_up(h.newest().generation);
    CHECK(h.up.size() == 2);
}
