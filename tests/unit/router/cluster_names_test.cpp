// Who has a worker's name: HELLOs of dead, doubled and returning processes.
#include <doctest/doctest.h>

#include "cluster_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr uint8_t kBoth = wire::kRoleStage | wire::kRoleSampler;

WorkerSpec process(Incarnation incarnation) { return {incarnation, "a", kBoth, 0, 2}; }

struct Named : ClusterHarness {
    Named() : ClusterHarness(2) {
        config.failure_threshold = 4;
        cluster = std::make_unique<Cluster>(config, outbox, *this);
    }
    void say_hello(Incarnation from) { hear(from, hello_of(config, process(from))); }
    std::string rejected(Incarnation of) const {
        const auto rejects = outbox.controls<wire::Reject>(peer_of(of));
        return rejects.empty() ? "" : rejects.back().code;
    }
    bool has_name(Incarnation of) const {
        return cluster->workers().size() == 1 && cluster->workers().contains(of);
    }
};

}  // namespace

TEST_CASE("a HELLO that a dead process sent is read behind its successor's") {
    for (const Incarnation dead : {5, 30}) {  // below the successor's number, and above
        CAPTURE(dead);
        Named h;
        h.join(process(20));
        h.tick();
        REQUIRE(h.cluster->routes().size() == 1);
        for (int burst = 0; burst < 3; ++burst) h.say_hello(dead);
        CHECK(h.rejected(dead) == "in_use");
        CHECK(h.outbox.controls<wire::Welcome>(peer_of(dead)).empty());
        h.cluster->on_unreachable(peer_of(dead), h.now);  // nobody hears the answer
        CHECK(h.has_name(20));
        CHECK(h.down.empty());
        CHECK(h.cluster->workers().at(20).generation == 1);
    }
}

TEST_CASE("and so when the successor is out of reach for a moment") {
    Named h;
    h.join(process(20));
    h.cluster->on_unreachable(peer_of(20), h.now);
    h.say_hello(10);
    h.cluster->on_unreachable(peer_of(10), h.now);
    h.now += 100 * kMillisecondUs;
    h.say_hello(10);  // late as well
    CHECK(h.has_name(20));
    h.beat(20);
    CHECK(h.has_name(20));
    CHECK(h.rejected(20).empty());
}

TEST_CASE("a restarted process takes its place with its second HELLO, a free one at once") {
    Named h;
    h.join(process(10));
    h.cluster->on_unreachable(peer_of(10), h.now);
    h.say_hello(20);
    CHECK(h.has_name(10));
    h.now += 100 * kMillisecondUs;
    h.say_hello(20);
    CHECK(h.has_name(20));
    h.say_hello(10);
    CHECK(h.rejected(10) == "replaced");

    h.beat(20);
    h.cluster->on_unreachable(peer_of(20), h.now);
    for (int i = 0; i < 3; ++i) h.tick(200 * kMillisecondUs);
    CHECK(h.cluster->workers().empty());
    h.say_hello(30);
    CHECK(h.has_name(30));
}

TEST_CASE("a HELLO makes the router look whether the name's process can be reached") {
    Named h;
    h.join(process(10));
    h.tick();
    const auto beats = [&] { return h.outbox.controls<wire::RouterHeartbeat>(peer_of(10)).size(); };
    const size_t before = beats();
    h.say_hello(20);
    h.tick();
    CHECK(beats() == before + 1);
}

TEST_CASE("of a host that is gone without a word the name is free after half of the silence") {
    Named h;
    h.join(process(10));
    for (TimeUs waited = 0; waited < 400 * kMillisecondUs; waited += 100 * kMillisecondUs) {
        h.say_hello(20);
        CHECK(h.has_name(10));
        h.tick(100 * kMillisecondUs);
    }
    h.tick(100 * kMillisecondUs);
    h.say_hello(20);
    CHECK(h.has_name(20));
}

TEST_CASE("two living processes of one name: the second one is refused, and both logs say so") {
    Named h;
    h.join(process(10));
    for (int i = 0; i < 30; ++i) {
        h.say_hello(20);
        h.beat(10);
        h.tick(100 * kMillisecondUs);
    }
    CHECK(h.has_name(10));
    const auto rejects = h.outbox.controls<wire::Reject>(peer_of(20));
    REQUIRE(rejects.size() == 30);
    CHECK(rejects.back().retryable);
    CHECK(h.cluster->counters().workers_refused == 1);
    CHECK(h.events.back() == "a has a name that another process asks for: it is refused");
}

TEST_CASE("who was given up comes back, but not when another has its name") {
    for (const bool replaced : {false, true}) {
        CAPTURE(replaced);
        Named h;
        h.join(process(10));
        for (int i = 0; i < 90; ++i) h.tick(100 * kMillisecondUs);
        REQUIRE(h.cluster->workers().empty());
        if (replaced) h.join(process(20));
        h.say_hello(10);
        CHECK(h.has_name(replaced ? 20 : 10));
        CHECK(h.rejected(10) == (replaced ? "replaced" : ""));
    }
}
