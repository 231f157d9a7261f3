// Workers that lie: they harm the route that they are on at most, and never the router.
#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"
#include "cluster_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

// A route in use, and a worker that is on none.
struct UpRouteAndLiar : ClusterHarness {
    UpRouteAndLiar() : ClusterHarness(2) {
        join({10, "honest", wire::kRoleStage | wire::kRoleSampler, 0, 2});
        REQUIRE(form() == 1);
        bring_up(1);
        join({66, "liar", wire::kRoleStage, 0, 1});
        tick();
        REQUIRE(up.size() == 1);
    }
};

}  // namespace

TEST_CASE("a worker speaks only for the route that it is on") {
    UpRouteAndLiar h;
    h.hear(66, wire::Gap{1, 0, 5, 7, wire::GapReason::kNumber});
    h.hear(66, wire::Unreachable{1, 0, 10});
    CHECK(h.cluster->counters().ctrl_unexpected == 2);
    CHECK_FALSE(h.cluster->is_avoided(h.cluster->workers().at(10), h.now));
    h.hear(66, wire::Ready{1});
    h.hear(66, wire::Fenced{UINT64_MAX});
    h.beat(66, {{1, 0, UINT64_MAX, 0, false, true}}, wire::WorkerState::kReady, UINT64_MAX);
    CHECK(h.down.empty());
    CHECK(h.cluster->find_route(1)->up);

    h.hear(10, wire::Gap{1, 0, 5, 7, wire::GapReason::kNumber});
    CHECK(h.down.size() == 1);
}

TEST_CASE("whatever numbers a heartbeat has, the router goes on") {
    UpRouteAndLiar h;
    for (const uint64_t number : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 63, UINT64_MAX}) {
        h.beat(10, {{1, 0, number, UINT64_MAX - number, true, false}});
        h.beat(10, {{1, 63, number, number, true, true}, {1, 63, number, number, true, true}});
    }
    CHECK(h.down.empty());
    h.beat(10, {}, wire::WorkerState::kReady, UINT64_MAX);  // says that it has fenced all
    CHECK(h.down.size() == 1);
    h.cluster->debit(*h.cluster->find_route(h.form()), 1);
    h.hear(10, wire::Fenced{UINT64_MAX});
    CHECK(h.cluster->workers().at(10).credit.frames_out() == 0);
}

TEST_CASE("a worker whose endpoint is none is left out after one try") {
    ClusterHarness h(2);
    const WorkerSpec spec{5, "nowhere", wire::kRoleStage | wire::kRoleSampler, 0, 2};
    wire::Hello hello = hello_of(h.config, spec);
    for (const char* endpoint : {"", "nowhere", "inproc://link-monitor-9", "tcp://0.0.0.0:1"}) {
        hello.endpoint = endpoint;
        h.hear(5, hello);
    }
    h.beat(5);
    h.join({10, "honest", wire::kRoleStage | wire::kRoleSampler, 0, 2});
    h.form();
    for (int i = 0; i < 60 && h.up.empty(); ++i) {
        for (const Incarnation worker : {5, 10}) {
            const Generation on = h.cluster->workers().at(worker).generation;
            std::vector<wire::RouteReport> routes;
            if (on != 0) routes.push_back({on, 0, 0, 0, true, true});
            h.beat(worker, routes);
            if (worker != 10 || on == 0) continue;
            h.hear(10, wire::Ready{on});
            h.cluster->on_link(h.cluster->find_route(on)->link, true, h.now);
        }
        h.tick(200 * kMillisecondUs);
    }
    REQUIRE(h.up.size() == 1);
    CHECK(h.cluster->find_route(h.up[0])->hops[0] == 10);
}

TEST_CASE("as many workers as are let in, each a route of its own with the largest share") {
    ClusterHarness h(1);
    const wire::Share largest{kShareFramesMax, kShareBytesMax, kSlotsMax, kBlocksMax};
    const uint32_t extra = 10;
    for (Incarnation i = 1; i <= kWorkersMax + extra; ++i) {
        h.join({i, std::to_string(i), wire::kRoleStage | wire::kRoleSampler, 0, 1, largest});
        h.tick();
    }
    CHECK(h.cluster->workers().size() == kWorkersMax);
    CHECK(h.cluster->routes().size() == kWorkersMax);
    CHECK(h.cluster->counters().workers_refused == extra);
}

TEST_CASE("one name with ever new incarnations is one worker, and leaves nothing behind") {
    ClusterHarness h(1);
    for (Incarnation i = 1; i <= 3 * kWorkersMax; ++i)
        h.restart(i - 1, {i, "same", wire::kRoleStage | wire::kRoleSampler, 0, 1});
    CHECK(h.cluster->workers().size() == 1);
    CHECK(h.cluster->counters().workers_joined == 3 * kWorkersMax);
    CHECK(h.cluster->counters().workers_lost == 3 * kWorkersMax - 1);
    h.hear(3 * kWorkersMax - 1, wire::Ready{1});  // a replaced one
    CHECK(h.cluster->counters().ctrl_unexpected >= 1);
}

TEST_CASE("a worker that sends only garbage is not read for a while") {
    UpRouteAndLiar h;
    const wire::Bytes garbage{0x91, 0xc1};
    for (uint32_t n = 0; n < kMalformedMax; ++n) h.cluster->on_control(peer_of(66), garbage, h.now);
    CHECK(h.shut_out == std::vector<std::string>{peer_of(66)});
    h.hear(66, wire::Welcome{66, "x", 1, 1, "y"});
    CHECK(h.cluster->counters().ctrl_malformed == kMalformedMax);
    CHECK(h.cluster->counters().ctrl_quarantined == 1);
    CHECK(h.cluster->counters().ctrl_unexpected == 0);
    h.now += kQuarantineUs;
    h.hear(66, wire::Welcome{66, "x", 1, 1, "y"});
    CHECK(h.cluster->counters().ctrl_unexpected == 1);
}
