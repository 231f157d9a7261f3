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

TEST_CASE("the larger route is gone while a long request waits for it: it does not wait on") {
    TwoRoutes h(1);
    h.submit("first", 10, 200);
    h.submit("cut", 100, 60);
    h.submit("too long", 150, 20);
    for (int i = 0; i < 3; ++i) h.answer(h.result_of(h.answered++));
    REQUIRE(h.router->waiting() == 2);
    h.answered = h.frames();
    h.lose(kLarge);
    h.tick(200 * kMillisecondUs);
    h.answer_all();
    CHECK(h.router->running() == 0);
    CHECK(h.router->waiting() == 0);
    CHECK(h.errors() == Codes{"prompt_too_long"});
    CHECK(h.tokens("cut").size() == 28);
    CHECK(h.tokens("first").size() == 118);
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
