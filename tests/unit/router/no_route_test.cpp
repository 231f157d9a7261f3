// Why there is no route, in words.
#include "chatloop/router/no_route.hpp"

#include <doctest/doctest.h>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

constexpr uint8_t kStage = wire::kRoleStage;
constexpr uint8_t kSampler = wire::kRoleSampler;
constexpr uint8_t kBoth = wire::kRoleStage | wire::kRoleSampler;
constexpr uint32_t kLayers = 30;

std::string missing(const std::vector<RouteCandidate>& workers,
                    const std::vector<RefusedWorker>& refused = {}) {
    return what_is_missing(kLayers, workers, refused);
}

}  // namespace

TEST_CASE("nothing is missing where stages follow each other and a sampler is there") {
    CHECK(missing({{"a", kStage, 0, 15, ""}, {"b", kBoth, 15, 30, ""}}).empty());
    CHECK(missing({{"a", kStage, 0, 30, ""}, {"s", kSampler, 0, 0, ""}}).empty());
    CHECK(missing({{"a", kBoth, 0, 15, ""}, {"b", kBoth, 0, 15, ""}, {"c", kStage, 15, 30, ""}})
              .empty());  // one of two equal stages can be the sampler
    CHECK(missing({{"a", kBoth, 0, 30, ""}}, {{"late", "its share is empty"}}).empty());
}

TEST_CASE("the missing layers are named") {
    CHECK(missing({}) == "layers 0-29 are missing; no sampler is there");
    CHECK(missing({{"a", kStage, 0, 15, ""}, {"s", kSampler, 0, 0, ""}}) ==
          "layers 15-29 are missing");
    CHECK(missing({{"a", kStage, 1, 15, ""}, {"b", kBoth, 16, 30, ""}}) ==
          "layers 0, 15 are missing");
    CHECK(missing({{"a", kStage, 0, 29, ""}, {"s", kSampler, 0, 0, ""}}) ==
          "layer 29 is missing");
    std::vector<RouteCandidate> sparse{{"s", kSampler, 0, 0, ""}};
    for (uint32_t layer = 0; layer < 12; layer += 2)
        sparse.push_back({"x", kStage, layer, layer + 1, ""});
    CHECK(missing(sparse) == "layers 1, 3, 5, 7, 2 more are missing");
}

TEST_CASE("ranges that do not meet") {
    CHECK(missing({{"a", kStage, 0, 20, ""}, {"b", kBoth, 10, 30, ""}}) ==
          "the ranges of the stages do not meet: none begins at layer 20");
    CHECK(missing({{"a", kStage, 0, 20, ""}, {"b", kBoth, 10, 30, ""}, {"c", kStage, 20, 30,
                   "is loading its weights"}}) ==
          "the ranges of the stages do not meet: none begins at layer 20; "
          "c is loading its weights");
}

TEST_CASE("the sampler") {
    CHECK(missing({{"a", kStage, 0, 30, ""}}) == "no sampler is there");
    CHECK(missing({{"a", kBoth, 0, 15, ""}, {"b", kStage, 15, 30, ""}}) ==
          "no sampler is free: a is needed for its layers");
    CHECK(missing({{"a", kStage, 0, 30, ""}, {"s", kSampler, 0, 0, "is draining"}}) ==
          "no sampler is there; s is draining");
}

TEST_CASE("who would help but cannot, and who was refused") {
    CHECK(missing({{"a", kStage, 0, 15, "is loading its weights"}, {"b", kBoth, 15, 30, ""},
                   {"spare", kStage, 15, 30, "is silent"}}) ==
          "layers 0-14 are missing; a is loading its weights");
    CHECK(missing({{"a", kStage, 0, 15, ""}, {"s", kSampler, 0, 0, ""}},
                  {{"b", "its numerics fingerprint differs"}}) ==
          "layers 15-29 are missing; b was refused: its numerics fingerprint differs");
    std::vector<RefusedWorker> many(9, {"x", "no"});
    CHECK(missing({{"a", kStage, 0, 29, ""}, {"s", kSampler, 0, 0, ""}}, many) ==
          "layer 29 is missing; x was refused: no; x was refused: no; x was refused: no; "
          "x was refused: no; 5 more");
}

TEST_CASE("a notice waits, comes once, and again when it changed, never within 5 s") {
    NoRouteNotice notice;
    CHECK_FALSE(notice.is_due("a", 100 * kSecondUs));
    CHECK_FALSE(notice.is_due("a", 104 * kSecondUs));
    CHECK(notice.is_due("a", 105 * kSecondUs));
    CHECK_FALSE(notice.is_due("a", 200 * kSecondUs));
    CHECK(notice.is_due("b", 200 * kSecondUs));
    CHECK_FALSE(notice.is_due("c", 204 * kSecondUs));
    CHECK(notice.is_due("c", 205 * kSecondUs));
    CHECK_FALSE(notice.is_due("", 206 * kSecondUs));  // a route came up, and goes down again
    CHECK_FALSE(notice.is_due("c", 207 * kSecondUs));
    CHECK(notice.is_due("c", 212 * kSecondUs));
}

TEST_CASE("a cluster says what it waits for, from the first worker to the route") {
    ClusterHarness h(2);
    const auto why = [&] { return h.cluster->why_no_route(); };
    CHECK(why() == "layers 0-1 are missing; no sampler is there");
    h.hear(10, hello_of(h.config, {10, "a", kStage, 0, 1}));
    CHECK(why() == "layers 0-1 are missing; no sampler is there; a is loading its weights");
    h.beat(10);
    CHECK(why() == "layer 1 is missing; no sampler is there");
    wire::Hello other = hello_of(h.config, {11, "b\x1b", kBoth, 1, 2});
    other.fingerprint = 99;
    h.hear(11, other);
    h.hear(11, other);
    const std::string refused = "b? was refused: its numerics fingerprint differs";
    CHECK(why() == "layer 1 is missing; no sampler is there; " + refused);
    CHECK(h.events == std::vector<std::string>{"a joined", refused});  // once
    h.join({12, "b\x1b", kBoth, 1, 2});  // started anew, as it should be
    CHECK(why() == "the workers are there, a route is being formed");
    const Generation generation = h.form();
    REQUIRE(generation != 0);
    CHECK(why() == "the route is being installed, it waits for a, b?");
    h.hear(10, wire::Ready{generation});
    h.hear(12, wire::Ready{generation});
    CHECK(why() == "the route is being installed, it waits for the link to the first stage");
    h.cluster->on_link(h.cluster->find_route(generation)->link, true, h.now);
    CHECK(why().empty());
    h.beat(12, {{generation, 1, 0, 0, true, true}}, wire::WorkerState::kDraining);
    CHECK(why() == "layer 1 is missing; no sampler is there; b? is draining");
}

TEST_CASE("what a refusal says is forgotten when a route came up without it") {
    ClusterHarness h(1);
    wire::Hello other = hello_of(h.config, {11, "spare", kBoth, 0, 1});
    other.cut_id = "another";
    h.hear(11, other);
    h.join({10, "a", kBoth, 0, 1});
    h.bring_up(h.form());
    CHECK(h.cluster->why_no_route().empty());
    h.hear(10, wire::Bye{"it was told to"});
    CHECK(h.cluster->why_no_route() == "layer 0 is missing; no sampler is there");
}

TEST_CASE("of names that are refused one a second is told, and the latest are kept") {
    ClusterHarness h(1);
    for (Incarnation i = 0; i < 100; ++i) {
        wire::Hello other = hello_of(h.config, {20 + i, "w" + std::to_string(i), kBoth, 0, 1});
        other.self_test = 0;
        h.hear(20 + i, other);
        h.now += 100 * kMillisecondUs;
    }
    CHECK(h.events.size() == 10);
    CHECK(h.cluster->why_no_route().find("w92 was refused") != std::string::npos);
    CHECK(h.cluster->why_no_route().find("w91 was refused") == std::string::npos);
}

TEST_CASE("the router tells it: in the log, in STATUS, and to who waited") {
    RouterHarness h;
    const std::string why = "layer 0 is missing; no sampler is there";
    h.submit("r", 3, 1);
    for (int second = 0; second <= 61; ++second) {
        h.say(wire::Ping{1});
        h.tick(kSecondUs);
        if (second == 3) CHECK(h.log.empty());
    }
    REQUIRE(!h.log.empty());
    CHECK(h.log[0] == "w no route: " + why);
    CHECK(std::count(h.log.begin(), h.log.end(), h.log[0]) == 1);
    REQUIRE(h.errors() == std::vector<std::string>{"no_route"});
    CHECK(h.heard<wire::Failure>()[0].message ==
          "no complete set of workers came up while the request waited, with 0 tokens committed: " +
              why);
    h.say(wire::StatusQuery{}, "observer");
    CHECK(h.heard<wire::StatusReply>("observer").back().no_route == why);
    h.bring_up();
    h.say(wire::StatusQuery{}, "observer");
    CHECK(h.heard<wire::StatusReply>("observer").back().no_route.empty());
}
