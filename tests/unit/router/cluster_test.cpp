// The cluster: membership, route formation, faults and re-formation.
#include <doctest/doctest.h>

#include <functional>

#include "cluster_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr uint8_t kBoth = wire::kRoleStage | wire::kRoleSampler;

// Two stages and a sampler, up in generation 1.
struct UpRoute : ClusterHarness {
    UpRoute() : ClusterHarness(4) {
        stage(10, "first", 0, 2);
        stage(20, "last", 2, 4);
        sampler(30, "sampler");
        REQUIRE(form() == 1);
        bring_up(1);
        REQUIRE(up == std::vector<Generation>{1});
    }
    void beat_up(Incarnation from, uint8_t hop, bool link_up = true) {
        beat(from, {{1, hop, 0, 0, link_up, true}});
    }
};

}  // namespace

TEST_CASE("a route is the chain of layer ranges and a sampler, each told its next hop") {
    ClusterHarness h(4);
    h.sampler(30, "sampler");
    h.stage(20, "last", 2, 4);
    CHECK(h.form() == 0);
    h.stage(10, "first", 0, 2);
    REQUIRE(h.form() == 1);
    CHECK(h.cluster->find_route(1)->hops == std::vector<Incarnation>{10, 20, 30});
    REQUIRE(h.routes_to(10).size() >= 1);
    CHECK(h.routes_to(10)[0].hops ==
          std::vector<wire::RouteHop>{{0, wire::kRoleStage, "in:last", 20, false}});
    CHECK(h.routes_to(20)[0].hops ==
          std::vector<wire::RouteHop>{{1, wire::kRoleStage, "in:sampler", 30, true}});
    CHECK(h.routes_to(30)[0].hops ==
          std::vector<wire::RouteHop>{{2, wire::kRoleSampler, "result", kRouter, false}});
    CHECK(h.outbox.link_to("in:first") == h.cluster->find_route(1)->link);
}

TEST_CASE("a sampler hosted by the last stage is used, over an empty endpoint") {
    ClusterHarness h(4);
    h.stage(10, "first", 0, 2);
    h.join({20, "last", kBoth, 2, 4});
    h.sampler(5, "sampler");
    REQUIRE(h.form() == 1);
    CHECK(h.cluster->find_route(1)->hops == std::vector<Incarnation>{10, 20, 20});
    CHECK(h.cluster->find_route(1)->workers.size() == 2);
    CHECK(h.routes_to(20)[0].hops ==
          std::vector<wire::RouteHop>{{1, wire::kRoleStage, "", 20, true},
                                      {2, wire::kRoleSampler, "result", kRouter, false}});
    CHECK(h.routes_to(5).empty());
}

TEST_CASE("a route's pool is the smallest share on it") {
    ClusterHarness h(4);
    h.join({10, "first", wire::kRoleStage, 0, 2, {4, 1u << 20, 9, 16}});
    h.join({20, "last", wire::kRoleStage, 2, 4, {4, 1u << 20, 5, 30}});
    h.join({30, "sampler", wire::kRoleSampler, 0, 0, {4, 1u << 20, 0, 0}});
    REQUIRE(h.form() == 1);
    CHECK(h.routes_to(10)[0].slots == 5);
    CHECK(h.routes_to(10)[0].blocks == 16);
    CHECK(h.cluster->find_route(1)->kv->block_count() == 16);
}

TEST_CASE("routes are disjoint, and a spare waits until a whole second route is there") {
    ClusterHarness h(2);
    h.join({10, "a", kBoth, 0, 2});
    h.stage(11, "b", 0, 2);
    CHECK(h.form() == 1);
    CHECK(h.routes_to(11).empty());
    h.sampler(12, "c");
    CHECK(h.form() == 2);
    CHECK(h.cluster->find_route(1)->workers == std::set<Incarnation>{10});
    CHECK(h.cluster->find_route(2)->workers == std::set<Incarnation>{11, 12});
}

TEST_CASE("a stage that is also the only sampler there is leaves its layers to another one") {
    ClusterHarness h(4);
    h.join({10, "first, sampler", kBoth, 0, 2});
    h.stage(11, "first", 0, 2);
    h.stage(20, "last", 2, 4);
    REQUIRE(h.form() == 1);
    CHECK(h.cluster->find_route(1)->hops == std::vector<Incarnation>{11, 20, 10});
}

TEST_CASE("a worker that still loads is on no route") {
    ClusterHarness h(2);
    h.hear(10, hello_of(h.config, {10, "a", kBoth, 0, 2}));
    CHECK(h.form() == 0);
    h.beat(10, {}, wire::WorkerState::kLoading);
    CHECK(h.form() == 0);
    h.beat(10);
    CHECK(h.form() == 1);
}

TEST_CASE("a route is up when all are READY and the own link is, in any order") {
    for (const bool link_first : {false, true}) {
        CAPTURE(link_first);
        ClusterHarness h(4);
        h.stage(10, "first", 0, 2);
        h.stage(20, "last", 2, 4);
        h.sampler(30, "sampler");
        REQUIRE(h.form() == 1);
        const LinkId link = h.cluster->find_route(1)->link;
        if (link_first) h.cluster->on_link(link, true, h.now);
        h.hear(10, wire::Ready{1});
        h.hear(10, wire::Ready{1});
        h.hear(20, wire::Ready{2});  // another generation is ignored
        h.hear(30, wire::Ready{1});
        CHECK(h.up.empty());
        h.hear(20, wire::Ready{1});
        CHECK(h.up.empty() == !link_first);
        if (!link_first) h.cluster->on_link(link, true, h.now);
        CHECK(h.up == std::vector<Generation>{1});
    }
}

TEST_CASE("a stage with another KV type is told which, a sampler has none") {
    ClusterHarness h(2);
    wire::Hello stage = hello_of(h.config, {10, "a", kBoth, 0, 2});
    stage.kv_cache_dtype = "int8";
    stage.fingerprint ^= 1;
    h.hear(10, stage);
    const auto rejects = h.outbox.controls<wire::Reject>(peer_of(10));
    REQUIRE(rejects.size() == 1);
    CHECK(rejects[0].code == "mismatch");
    CHECK(rejects[0].reason ==
          "a is refused: its KV cache is int8, the router serves f16: give "
          "performance.kv_cache_dtype one value everywhere");
    wire::Hello sampler = hello_of(h.config, {20, "b", wire::kRoleSampler, 0, 0});
    h.hear(20, sampler);
    CHECK(h.outbox.controls<wire::Reject>(peer_of(20)).empty());
    sampler.fingerprint = h.config.fingerprint;  // it would be one with layers
    h.hear(30, sampler);
    CHECK(h.outbox.controls<wire::Reject>(peer_of(30)).size() == 1);
}

TEST_CASE("whatever does not agree is refused for good, with a reason that fits") {
    using Change = std::function<void(wire::Hello&)>;
    const std::vector<Change> changes{
        [](wire::Hello& m) { m.model_id = std::string(256, 'x'); },
        [](wire::Hello& m) { m.cut_id = std::string(256, 'x'); },
        [](wire::Hello& m) { m.fingerprint ^= 1; },
        [](wire::Hello& m) { m.kv_cache_dtype = std::string(256, 'x'); },
        [](wire::Hello& m) { m.self_test ^= 1; },
        [](wire::Hello& m) { m.layers += 1; },
        [](wire::Hello& m) { m.width += 1; },
        [](wire::Hello& m) { m.vocab += 1; },
        [](wire::Hello& m) { m.layer_end = m.layer_first; },
        [](wire::Hello& m) { m.share.frames = 0; },
        [](wire::Hello& m) { m.share.bytes = 0; },
        [](wire::Hello& m) { m.share.slots = 0; },
        [](wire::Hello& m) { m.share.blocks = 0; },
    };
    for (size_t i = 0; i < changes.size(); ++i) {
        CAPTURE(i);
        ClusterHarness h(2);
        wire::Hello hello = hello_of(h.config, {10, "a", kBoth, 0, 2});
        changes[i](hello);
        h.hear(10, hello);
        const auto rejects = h.outbox.controls<wire::Reject>(peer_of(10));
        REQUIRE(rejects.size() == 1);
        CHECK_FALSE(rejects[0].retryable);
        CHECK(rejects[0].reason.find(hello.name) != std::string::npos);
        CHECK(h.cluster->workers().empty());
        CHECK(h.outbox.controls<wire::Welcome>().empty());
    }
}

TEST_CASE("a HELLO repeated before anything else is welcomed again and changes nothing") {
    ClusterHarness h(2);
    const wire::Hello hello = hello_of(h.config, {10, "a", kBoth, 0, 2});
    h.hear(10, hello);
    h.hear(10, hello);
    CHECK(h.outbox.controls<wire::Welcome>(peer_of(10)).size() == 2);
    h.beat(10);
    CHECK(h.cluster->workers().size() == 1);
    REQUIRE(h.form() == 1);
    h.bring_up(1);
    CHECK(h.down.empty());
}

TEST_CASE("who is not a member is told so") {
    ClusterHarness h(2);
    h.beat(99);
    h.hear(99, wire::Ready{1});
    CHECK(h.outbox.controls<wire::Unknown>(peer_of(99)).size() == 2);
    // A member's incarnation from another connection is not the member.
    h.join({10, "a", kBoth, 0, 2});
    const wire::Control forged{10, 1, wire::Bye{"x"}};
    h.cluster->on_control("worker:other", wire::encode_control(forged), h.now);
    CHECK(h.outbox.controls<wire::Unknown>("worker:other").size() == 1);
    CHECK(h.cluster->workers().size() == 1);
}

TEST_CASE("a restart under the same name replaces the old process for ever") {
    UpRoute h;
    h.restart(10, {11, "first", wire::kRoleStage, 0, 2});
    REQUIRE(h.down.size() == 1);
    CHECK(h.down[0].first == 1);
    CHECK_FALSE(h.cluster->workers().contains(10));
    CHECK(h.outbox.controls<wire::Fence>(peer_of(20)).back().through == 1);
    CHECK(h.outbox.controls<wire::Fence>(peer_of(30)).back().through == 1);
    h.stage(10, "first", 0, 2);  // the old one speaks once more
    CHECK_FALSE(h.cluster->workers().contains(10));
    CHECK(h.cluster->workers().contains(11));
    REQUIRE(h.form() == 2);
    CHECK(h.cluster->find_route(2)->hops == std::vector<Incarnation>{11, 20, 30});
    CHECK(h.routes_to(20).back().fences_through == 1);
    h.tick(200 * kMillisecondUs);  // and the heartbeat repeats what ROUTE said
    CHECK(h.outbox.controls<wire::RouterHeartbeat>(peer_of(11)).back().fence_through == 1);
    h.bring_up(2);
    CHECK(h.up == std::vector<Generation>{1, 2});
}

TEST_CASE("a silent worker's route is down after interval x threshold, but it may come back") {
    UpRoute h;
    const TimeUs dead_us = 200 * kMillisecondUs * 25;
    h.now += dead_us - 1000;
    h.beat_up(20, 1);
    h.beat_up(30, 2);
    h.tick();
    CHECK(h.down.empty());
    h.beat_up(20, 1);
    h.tick(kSecondUs);
    REQUIRE(h.down.size() == 1);
    CHECK(h.cluster->workers().size() == 3);
    CHECK(h.cluster->routes().empty());
    h.tick(kSecondUs);
    CHECK(h.cluster->routes().empty());  // it is waited for
    CHECK(h.kv_lost.empty());
    h.beat(10, {{1, 0, 0, 0, true, true}});  // it was a false alarm
    CHECK(h.outbox.controls<wire::Unknown>(peer_of(10)).empty());
    REQUIRE(h.form() == 2);
    CHECK(h.cluster->find_route(2)->succeeds == 1);
    h.bring_up(2);
    CHECK(h.kv_lost.empty());
}

TEST_CASE("faults fence the route once and a new one is formed") {
    using Fault = std::function<void(UpRoute&)>;
    const std::vector<Fault> faults{
        [](UpRoute& h) { h.hear(20, wire::Gap{1, 1, 2, 3, wire::GapReason::kNumber}); },
        [](UpRoute& h) { h.hear(20, wire::Gap{1, 1, 2, 2, wire::GapReason::kBodyCrc}); },
        [](UpRoute& h) { h.beat_up(20, 1, false); },
        [](UpRoute& h) { h.beat(20); },  // has forgotten the route
        [](UpRoute& h) { h.cluster->on_link(h.cluster->find_route(1)->link, false, h.now); },
        [](UpRoute& h) { h.cluster->fault(1, "a RESULT is overdue", h.now); },
        [](UpRoute& h) { h.hear(10, wire::Unreachable{1, 0, 20}); },
    };
    for (size_t i = 0; i < faults.size(); ++i) {
        CAPTURE(i);
        UpRoute h;
        faults[i](h);
        faults[i == 4 ? 5 : i](h);  // the same once more, of a generation that is gone
        REQUIRE(h.down.size() == 1);
        CHECK(h.cluster->routes().empty());
        CHECK(h.outbox.open.empty());
        for (const Incarnation worker : {10, 20, 30}) {
            const auto fences = h.outbox.controls<wire::Fence>(peer_of(worker));
            REQUIRE(!fences.empty());
            CHECK(fences.back().through == 1);
        }
        h.tick(5 * kSecondUs - 1);  // an unreachable peer is avoided for a while
        for (const Incarnation worker : {10, 20, 30})
            h.beat(worker, {}, wire::WorkerState::kReady, 1);
        REQUIRE(h.form() == 2);
        h.bring_up(2);
        CHECK(h.up.back() == 2);
    }
}

TEST_CASE("an unreachable peer is avoided when there is a spare") {
    ClusterHarness h(2);
    h.stage(10, "a", 0, 1);
    h.stage(20, "b", 1, 2);
    h.stage(21, "b-spare", 1, 2);
    h.sampler(30, "s");
    REQUIRE(h.form() == 1);
    CHECK(h.cluster->find_route(1)->hops[1] == 20);
    h.hear(10, wire::Unreachable{1, 0, 20});
    REQUIRE(h.form() == 2);
    CHECK(h.cluster->find_route(2)->hops[1] == 21);
}

TEST_CASE("lost control messages are repaired by the next heartbeat") {
    ClusterHarness h(2);
    h.join({10, "a", kBoth, 0, 2});
    REQUIRE(h.form() == 1);
    const size_t sent = h.routes_to(10).size();
    h.beat(10);  // knows of no route
    CHECK(h.routes_to(10).size() == sent + 1);
    h.bring_up(1);
    h.cluster->fault(1, "test", h.now);
    const size_t fences = h.outbox.controls<wire::Fence>().size();
    h.beat(10, {{1, 0, 0, 0, true, true}});  // FENCE was lost
    CHECK(h.outbox.controls<wire::Fence>().size() == fences + 1);
    h.beat(10, {}, wire::WorkerState::kReady, 1);
    CHECK(h.outbox.controls<wire::Fence>().size() == fences + 1);
}

TEST_CASE("a route that does not come up in time is given up and tried again") {
    ClusterHarness h(2);
    h.join({10, "a", kBoth, 0, 2});
    REQUIRE(h.form() == 1);
    for (int i = 0; i < 60; ++i) {
        h.beat(10);
        h.tick(200 * kMillisecondUs);
    }
    REQUIRE(h.down.size() >= 1);
    CHECK(h.cluster->routes().rbegin()->first > 1);
}

TEST_CASE("a draining worker keeps its route, which takes nothing new, and joins no other") {
    UpRoute h;
    h.beat(20, {{1, 1, 0, 0, true, true}}, wire::WorkerState::kDraining);
    CHECK(h.down.empty());
    CHECK(h.cluster->find_route(1)->draining);
    h.cluster->retire(1, h.now);
    CHECK(h.down.empty());  // nobody is hurt
    CHECK(h.outbox.controls<wire::Fence>(peer_of(20)).back().through == 1);
    CHECK(h.form() == 0);
    h.hear(20, wire::Bye{"drained"});
    CHECK(h.cluster->workers().size() == 2);
    h.stage(21, "last-2", 2, 4);
    CHECK(h.form() == 2);
}

TEST_CASE("BYE of a worker on a route is a fault of the route") {
    UpRoute h;
    h.hear(30, wire::Bye{"drained"});
    REQUIRE(h.down.size() == 1);
    CHECK(h.cluster->workers().size() == 2);
}

TEST_CASE("credit: each process once per frame, back by RESULT, FENCED or death") {
    ClusterHarness h(2);
    h.join({10, "a", kBoth, 0, 2, {2, 1000, 4, 4}});
    REQUIRE(h.form() == 1);
    h.bring_up(1);
    Route& route = *h.cluster->find_route(1);
    const auto frames_out = [&] { return h.cluster->workers().at(10).credit.frames_out(); };
    h.cluster->debit(route, 400);
    CHECK(frames_out() == 1);  // two hops, one process
    CHECK_FALSE(h.cluster->credit_allows(route, 601));
    h.cluster->debit(route, 600);
    CHECK_FALSE(h.cluster->credit_allows(route, 1));
    h.cluster->credit(route, 400);
    CHECK(frames_out() == 1);
    h.cluster->fault(1, "test", h.now);
    CHECK(frames_out() == 1);  // the fence is not answered yet
    h.hear(10, wire::Fenced{1});
    CHECK(frames_out() == 0);
}

TEST_CASE("control bytes that are no message, or a router's, are counted") {
    UpRoute h;
    const wire::Bytes garbage{0x91, 0xc1};
    h.cluster->on_control(peer_of(10), garbage, h.now);
    h.hear(10, wire::Fence{1});
    h.hear(10, wire::Welcome{10, "x", 1, 1, "y"});
    CHECK(h.cluster->counters().ctrl_malformed == 1);
    CHECK(h.cluster->counters().ctrl_unexpected == 2);
    CHECK(h.down.empty());
}

TEST_CASE("the router's heartbeat says what is installed and fenced") {
    UpRoute h;
    h.tick(200 * kMillisecondUs);
    const auto beat = h.outbox.controls<wire::RouterHeartbeat>(peer_of(20)).back();
    CHECK(beat.generations == std::vector<Generation>{1});
    CHECK(beat.fence_through == 0);
    CHECK(beat.echo > 0);
    h.cluster->fault(1, "test", h.now);
    h.cluster->stop_forming();
    h.tick(200 * kMillisecondUs);
    const auto after = h.outbox.controls<wire::RouterHeartbeat>(peer_of(20)).back();
    CHECK(after.generations.empty());
    CHECK(after.fence_through == 1);
}
