// Several routes, of pools that differ: who goes where, and what happens when the larger one is
// full or gone.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

using Codes = std::vector<std::string>;

constexpr Incarnation kSmall = kWorker;
constexpr Incarnation kLarge = kWorker + 1;
constexpr uint32_t kSmallBlocks = 2;  // 128 positions
constexpr uint32_t kLargeBlocks = 16;

// Two workers, each a whole route.
struct TwoRoutes : RouterHarness {
    explicit TwoRoutes(uint32_t large_slots = 4) : large_slots(large_slots) {
        config.kv_headroom_tokens = 0;
        remake();
        join(kSmall, {4, 16u << 20, 4, kSmallBlocks});
        join_large();
        REQUIRE(router->cluster().routes().size() == 2);
    }
    void join(Incarnation worker, wire::Share share) {
        const auto roles = static_cast<uint8_t>(wire::kRoleStage | wire::kRoleSampler);
        const WorkerSpec spec{worker, "worker-" + std::to_string(worker), roles, 0, 1, share};
        hear(hello_of(config.cluster, spec), worker);
        hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {}, {}}, worker);
        tick(200 * kMillisecondUs);
        const Generation generation = router->cluster().workers().at(worker).generation;
        REQUIRE(generation != 0);
        router->on_link(router->cluster().routes().at(generation).link, true, now);
        hear(wire::Ready{generation}, worker);
    }
    void join_large() { join(kLarge, {4, 16u << 20, large_slots, kLargeBlocks}); }
    void live_a_second() {
        for (const auto& [generation, route] : router->cluster().routes())
            hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0,
                                       {{generation, 0, route.sent, route.answered, true, true},
                                        {generation, 1, route.sent, route.answered, true, true}},
                                       {}}, route.hops[0]);
        say(wire::Ping{1});
        tick(kSecondUs);
    }
    void lose(Incarnation worker) {
        hear(wire::Bye{"drained"}, worker);
        REQUIRE_FALSE(router->cluster().workers().contains(worker));
    }
    // Where the sequences of the frame are computed.
    Incarnation worker_of(const SentFrame& sent) const {
        return router->cluster().routes().at(sent.frame.header.generation).hops.at(0);
    }
    std::vector<std::string> finished() const {
        std::vector<std::string> ids;
        for (const wire::Done& done : heard<wire::Done>()) ids.push_back(done.request_id);
        return ids;
    }

    uint32_t large_slots;
};

}  // namespace

TEST_CASE("a request goes to the route whose pool it fits, also past one that is idle") {
    for (const bool fits_prompt : {true, false}) {  // its answer may be what is too long
        CAPTURE(fits_prompt);
        TwoRoutes h;
        const uint32_t prompt = fits_prompt ? 100 : 150;
        h.submit("other", 50, 40);
        h.submit("long", prompt, 60);
        h.submit("longer", prompt + 1, 60);
        size_t on_large = 0;
        for (; h.answered < h.frames(); ++h.answered) {
            const SentFrame sent = h.frame(h.answered);
            for (const wire::Item& item : sent.frame.items) {
                if (item.position + item.rows <= 90) continue;  // `other` has no rows beyond
                CHECK(h.worker_of(sent) == kLarge);
                ++on_large;
            }
            h.answer(h.result_of(h.answered));
        }
        CHECK(on_large > 0);
        CHECK(h.errors().empty());
        CHECK(h.tokens("long").size() == 60);
        CHECK(h.tokens("longer").size() == 60);
        CHECK(h.tokens("other").size() == 40);
    }
}

TEST_CASE("a long request waits for a place on the larger route, and has it when one is free") {
    TwoRoutes h(1);
    h.submit("first", 150, 20);
    h.submit("second", 100, 60);
    h.tick(200 * kMillisecondUs);
    CHECK(h.router->running() == 1);
    CHECK(h.router->waiting() == 1);  // the other route is idle, and would cut it short
    h.answer_all();
    CHECK(h.errors().empty());
    CHECK(h.finished() == std::vector<std::string>{"first", "second"});
    CHECK(h.tokens("second").size() == 60);
}

TEST_CASE("the larger route is gone: what has not begun does not wait for it") {
    TwoRoutes h(1);
    h.submit("begun", 150, 20);
    h.submit("cut", 100, 60);
    h.submit("too long", 150, 20);
    REQUIRE(h.router->waiting() == 2);
    h.answered = h.frames();
    h.lose(kLarge);
    h.tick(200 * kMillisecondUs);
    h.answer_all();
    CHECK(h.router->running() == 0);
    CHECK(h.router->waiting() == 1);
    CHECK(h.errors() == Codes{"prompt_too_long"});
    CHECK(h.finished() == std::vector<std::string>{"cut"});
    CHECK(h.tokens("cut").size() == 28);
}

TEST_CASE("the larger route is gone amid a long answer: that waits for it, and nobody else") {
    TwoRoutes h;
    h.submit("long", 100, 60);
    while (h.tokens("long").size() < 5) h.answer(h.result_of(h.answered++));
    h.answered = h.frames();
    h.lose(kLarge);
    h.tick(200 * kMillisecondUs);
    CHECK(h.router->waiting() == 1);
    h.submit("short", 3, 5);
    h.answer_all();
    CHECK(h.finished() == std::vector<std::string>{"short"});
    CHECK(h.errors().empty());
    SUBCASE("and goes on when it is back") {
        h.join_large();
        h.answer_all();
        std::vector<uint32_t> right;
        for (uint32_t i = 0; i < 60; ++i) right.push_back(token_at(99 + i));
        CHECK(h.tokens("long") == right);
        CHECK(h.errors().empty());
    }
    SUBCASE("or can be cancelled") {
        h.say(wire::Cancel{"long"});
        CHECK(h.heard<wire::Done>().back().finish_reason == "cancelled");
    }
    SUBCASE("but not longer than route_wait") {
        for (int second = 0; second < 59; ++second) {
            h.live_a_second();
            REQUIRE(h.errors().empty());
        }
        h.live_a_second();
        CHECK(h.errors() == Codes{"no_route"});
        CHECK(h.heard<wire::Failure>()[0].committed == 5);
    }
    SUBCASE("also when the smaller one is gone as well, and back first") {
        h.lose(kSmall);
        h.tick(200 * kMillisecondUs);
        h.join(kSmall, {4, 16u << 20, 4, kSmallBlocks});
        CHECK(h.router->waiting() == 1);
        h.join_large();
        h.answer_all();
        CHECK(h.tokens("long").size() == 60);
    }
    CHECK(h.router->running() == 0);
    CHECK(h.router->waiting() == 0);
}

TEST_CASE("a draining worker keeps an answer that fits no other route") {
    for (const uint32_t tokens : {20u, 60u}) {
        CAPTURE(tokens);
        TwoRoutes h;
        if (tokens == 20) h.submit("other", 100, 28);  // on the smaller route: the next is not
        h.submit("r", 100, tokens);
        const Generation generation = h.router->cluster().workers().at(kLarge).generation;
        const auto drains = [&] {
            const auto& route = h.router->cluster().routes().at(generation);
            h.hear(wire::WorkerHeartbeat{wire::WorkerState::kDraining, 0, 0, 0,
                                         {{generation, 0, route.sent, route.answered, true, true}},
                                         {}}, kLarge);
        };
        REQUIRE(h.router->cluster().routes().at(generation).sent > 0);
        drains();
        h.tick(200 * kMillisecondUs);
        h.answer_all();
        h.tick(200 * kMillisecondUs);
        h.answer_all();
        CHECK(h.tokens("r").size() == tokens);
        CHECK(h.router->counters().recoveries == (tokens == 20 ? 1 : 0));
    }
}

TEST_CASE("a larger route that takes nothing new is none to wait for") {
    TwoRoutes h;
    const Generation generation = h.router->cluster().workers().at(kLarge).generation;
    h.hear(wire::WorkerHeartbeat{wire::WorkerState::kDraining, 0, 0, 0,
                                 {{generation, 0, 0, 0, true, true}}, {}}, kLarge);
    h.submit("r", 100, 60);
    h.answer_all();
    CHECK(h.tokens("r").size() == 28);
    CHECK(h.router->running() == 0);
}
