// Faults amid answers: roll back to what is confirmed, or begin again, and no token twice.
#include <doctest/doctest.h>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

using Codes = std::vector<std::string>;

struct Faulty : RouterHarness {
    explicit Faulty(wire::Share share = {4, 16u << 20, 4, 16}, uint32_t stages = 1)
        : RouterHarness(share, 512, stages) {
        bring_up();
    }
    wire::Item last_item() const { return frame(frames() - 1).frame.items.back(); }
};

// What an unfaulted run answers.
std::vector<uint32_t> right_answer(uint32_t prompt_count, uint32_t max_tokens) {
    Faulty h;
    h.submit("r", prompt_count, max_tokens);
    h.answer_all();
    return h.tokens("r");
}

void check_answer(const Faulty& h, uint32_t prompt_count, uint32_t max_tokens) {
    CHECK(h.errors().empty());
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.tokens("r") == right_answer(prompt_count, max_tokens));
    CHECK(h.router->running() == 0);
    CHECK(h.free_blocks() == 16);
    CHECK(h.free_slots() == 4);
}

}  // namespace

TEST_CASE("a link fault costs the step that was in flight, the KV stays") {
    Faulty h;
    h.submit("r", 70, 6);
    for (int i = 0; i < 3; ++i) h.answer(h.result_of(h.answered++));
    const wire::Item lost = h.last_item();  // of a frame that nobody answers
    const size_t before = h.frames();
    CHECK(h.fault_and_form() == 2);
    REQUIRE(h.frames() == before + 1);
    const wire::Item again = h.last_item();
    CHECK(again.position == lost.position);
    CHECK(again.rows == 1);
    CHECK(again.slot == lost.slot);
    CHECK(again.admission == lost.admission);
    CHECK(again.table_index == 2);
    CHECK((again.flags & wire::kItemFirst) == 0);
    h.answer_all();
    check_answer(h, 70, 6);
    CHECK(h.router->counters().recoveries == 1);
    CHECK(h.router->counters().replays == 0);
}

TEST_CASE("a fault amid a prompt goes on behind the confirmed rows, within a block too") {
    Faulty h;
    h.submit("r", 190, 3);  // two frames are on their way: rows 0 to 99, and the others
    REQUIRE(h.frames() == 2);
    h.answer(h.result_of(0));
    h.fault_and_form();
    const wire::Item again = h.frame(2).frame.items.at(0);
    CHECK(again.position == h.frame(0).frame.items.at(0).rows);
    CHECK(again.position % kBlockRows != 0);
    CHECK(again.rows == 190 - again.position);
    CHECK(again.table_index == 2);  // some rows of the second block stay
    CHECK((again.flags & wire::kItemFirst) == 0);
    h.answer_all();
    check_answer(h, 190, 3);
}

TEST_CASE("a FIRST that was not confirmed is a FIRST again, also one with a prefix") {
    for (const bool with_prefix : {false, true}) {
        CAPTURE(with_prefix);
        Faulty h;
        if (with_prefix) {
            h.submit("before", 130, 1);
            h.answer_all();
        }
        h.submit("r", 130, 2);
        const wire::Item first = h.frame(h.answered).frame.items.at(0);
        CHECK(first.position == (with_prefix ? 128 : 0));
        h.fault_and_form();
        const wire::Item again = h.frame(h.answered).frame.items.at(0);
        CHECK((again.flags & wire::kItemFirst) != 0);
        CHECK(again.position == first.position);
        CHECK(again.table_index == 0);
        CHECK(again.blocks == first.blocks);
        h.answer_all();
        CHECK(h.errors().empty());
        CHECK(h.heard<wire::Done>().size() == (with_prefix ? 2 : 1));
        CHECK(h.free_blocks() == 16);
    }
}

TEST_CASE("a stage that was replaced: all from row 0 in a new pool, committed tokens as prompt") {
    Faulty h;
    h.submit("r", 70, 9);
    for (int i = 0; i < 5; ++i) h.answer(h.result_of(h.answered++));
    REQUIRE(h.tokens("r").size() == 5);
    h.router->on_worker_gone(peer_of(kWorker), h.now);
    h.tick(400 * kMillisecondUs);
    CHECK(h.router->waiting() == 1);
    CHECK(h.router->counters().replays == 1);
    h.answered = h.frames();
    h.bring_up();
    const SentFrame replay = h.frame(h.answered);
    REQUIRE(replay.frame.items.size() == 1);
    CHECK((replay.frame.items[0].flags & wire::kItemFirst) != 0);
    CHECK(replay.frame.items[0].rows == 75);
    h.answer_all();
    check_answer(h, 70, 9);
}

TEST_CASE("workers that have forgotten are as good as new ones") {
    Faulty h({4, 16u << 20, 4, 16}, 2);
    h.submit("r", 70, 4);
    h.answer(h.result_of(h.answered++));
    h.hear(hello_of(h.config.cluster, {kWorker, "worker-1", wire::kRoleStage, 0, 1}));
    CHECK(h.router->counters().replays == 1);
    CHECK(h.router->counters().routes_down == 1);
    h.answered = h.frames();
    h.hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {}, {}});
    h.form();
    CHECK((h.frame(h.answered).frame.items[0].flags & wire::kItemFirst) != 0);
    h.answer_all();
    CHECK(h.errors().empty());
    CHECK(h.tokens("r") == right_answer(70, 4));
}

TEST_CASE("faults in a row: every fault rolls back, also before a frame left") {
    Faulty h;
    h.submit("r", 190, 5);
    for (int i = 0; i < 2; ++i) h.answer(h.result_of(h.answered++));
    for (int i = 0; i < 3; ++i) {
        h.fault_and_form();
        CHECK(h.last_item().position == 190);
    }
    // One that comes while the successor is being installed.
    h.router->on_link(h.router->cluster().routes().rbegin()->second.link, false, h.now);
    h.tick(200 * kMillisecondUs);
    const Generation installing = h.router->cluster().routes().rbegin()->first;
    h.hear(wire::Unreachable{installing, 0, kWorker});
    h.answered = h.frames();
    h.beat();
    h.form();
    CHECK(h.last_item().position == 190);
    h.answer_all();
    check_answer(h, 190, 5);
    CHECK(h.router->counters().replays == 0);
}

TEST_CASE("cancelled while its route is down: slot and blocks return, nothing is left") {
    Faulty h;
    h.submit("r", 70, 40);
    h.submit("other", 5, 3);
    h.answer(h.result_of(h.answered++));
    h.router->on_link(h.router->cluster().routes().rbegin()->second.link, false, h.now);
    h.answered = h.frames();
    h.say(wire::Cancel{"r"});
    h.beat();
    h.form();
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 2);
    CHECK(h.tokens("other") == right_answer(5, 3));
    CHECK(h.free_blocks() == 16);
    CHECK(h.free_slots() == 4);
}

TEST_CASE("one that was to give way when the fault came is queued") {
    RouterHarness h({4, 16u << 20, 4, 3});  // blocks for one of them only
    h.config.kv_headroom_tokens = 0;
    h.remake();
    h.bring_up();
    h.submit("a", 60, 60);
    h.submit("b", 60, 60);
    int faults = 0;
    while (h.heard<wire::Done>().size() < 2 && h.answered < 1000) {
        if (h.answered < h.frames()) h.answer(h.result_of(h.answered++));
        if (h.answered % 7 == 0 && h.heard<wire::Done>().size() < 2) {
            h.fault_and_form();
            ++faults;
        }
    }
    CHECK(faults > 5);
    CHECK(h.router->counters().preemptions > 0);
    CHECK(h.tokens("a") == right_answer(60, 60));
    CHECK(h.tokens("b") == right_answer(60, 60));
}

TEST_CASE("no workers for route_wait: an error that says how much was committed") {
    Faulty h;
    h.submit("r", 5, 40);
    for (int i = 0; i < 4; ++i) h.answer(h.result_of(h.answered++));
    h.router->on_worker_gone(peer_of(kWorker), h.now);
    for (int second = 0; second < 59; ++second) {
        h.say(wire::Ping{1});
        h.tick(kSecondUs);
    }
    CHECK(h.errors().empty());
    h.tick(2 * kSecondUs);
    REQUIRE(h.errors() == Codes{"no_route"});
    CHECK(h.heard<wire::Failure>()[0].committed == 4);
    CHECK(h.heard<wire::Failure>()[0].message.find("4 tokens committed") != std::string::npos);
    CHECK(h.heard<wire::Failure>()[0].retryable);
}

TEST_CASE("so too for a route whose sampler stays away") {
    RouterHarness h;
    h.config.cluster.layers = 1;
    h.remake();
    h.hear(hello_of(h.config.cluster, {kWorker, "stage", wire::kRoleStage, 0, 1,
                                       {4, 16u << 20, 4, 16}}));
    h.hear(hello_of(h.config.cluster, {kWorker + 1, "sampler", wire::kRoleSampler, 0, 0,
                                       {4, 16u << 20, 0, 0}}), kWorker + 1);
    for (const Incarnation worker : {kWorker, kWorker + 1})
        h.hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {}, {}}, worker);
    h.tick(200 * kMillisecondUs);
    const Route& route = h.router->cluster().routes().rbegin()->second;
    h.router->on_link(route.link, true, h.now);
    for (const Incarnation worker : {kWorker, kWorker + 1}) h.hear(wire::Ready{1}, worker);
    h.submit("r", 5, 40);
    h.router->on_worker_gone(peer_of(kWorker + 1), h.now);
    for (int second = 0; second < 62; ++second) {
        h.hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 1, {}, {}});
        h.say(wire::Ping{1});
        h.tick(kSecondUs);
    }
    CHECK(h.errors() == Codes{"no_route"});
    CHECK(h.router->counters().replays == 0);
}

TEST_CASE("refused rows begin again from 0 without the cache, and refused again they fail") {
    Faulty h;
    h.submit("before", 130, 1);
    h.answer_all();
    h.submit("r", 130, 3);
    CHECK(h.last_item().position == 128);
    wire::ResultFrame refused = h.result_of(h.answered);
    for (wire::ResultItem& item : refused.items) {
        item.error = wire::ItemError::kRefused;
        item.outputs.clear();
    }
    h.answer(refused);
    ++h.answered;
    CHECK(h.errors().empty());
    const wire::Item again = h.frame(h.answered).frame.items.at(0);
    CHECK(again.position == 0);
    CHECK((again.flags & wire::kItemFirst) != 0);
    SUBCASE("and are served") {
        h.answer_all();
        CHECK(h.errors().empty());
        CHECK(h.tokens("r") == right_answer(130, 3));
    }
    SUBCASE("and are refused") {
        refused = h.result_of(h.answered);
        refused.items[0].error = wire::ItemError::kRefused;
        refused.items[0].outputs.clear();
        h.answer(refused);
        CHECK(h.errors() == Codes{"worker_lost"});
    }
}

TEST_CASE("replays go before new prompts, four at a time, and decoders run on") {
    RouterHarness h({16, 64u << 20, 16, 200});
    h.config.max_batch_size = 16;
    h.config.max_sequences = 16;
    h.remake();
    h.bring_up();
    for (int i = 0; i < 8; ++i) h.submit("r" + std::to_string(i), 60, 30);
    while (h.router->counters().tokens_committed < 40) h.answer(h.result_of(h.answered++));
    h.answered = h.frames();
    h.bring_up();  // the worker has forgotten everything
    h.submit("new", 60, 2);
    const size_t first = h.answered;
    h.answer_all();
    CHECK(h.errors().empty());
    CHECK(h.heard<wire::Done>().size() == 9);
    Admission newest = 0;
    for (size_t i = first; i < h.frames(); ++i)
        for (const wire::Item& item : h.frame(i).frame.items)
            newest = std::max(newest, item.admission);
    bool new_began = false;
    size_t mixed = 0;
    for (size_t i = first; i < h.frames(); ++i) {
        size_t replays = 0, decoders = 0;
        for (const wire::Item& item : h.frame(i).frame.items) {
            new_began |= item.admission == newest;
            replays += item.rows > 1 && item.admission != newest;
            decoders += item.rows == 1;
        }
        CHECK(replays <= 4);
        if (new_began) CHECK(replays == 0);
        mixed += replays > 0 && decoders > 0;
    }
    CHECK(new_began);
    CHECK(mixed > 0);
}

TEST_CASE("a RESULT that is overdue is a fault; the wait is learnt, and doubles") {
    Faulty h;
    h.submit("r", 3, 30);
    for (int i = 0; i < 12; ++i) {
        wire::ResultFrame result = h.result_of(h.answered++);
        result.timings = {{0, 100}, {0, 100}};
        h.answer(result);
    }
    const auto wait_for_fault = [&] {
        const TimeUs began = h.now;
        const uint64_t before = h.router->counters().routes_down;
        while (h.router->counters().routes_down == before) {
            h.beat();
            h.say(wire::Ping{1});
            h.tick(100 * kMillisecondUs);
            REQUIRE(h.now - began < 10 * kSecondUs);
        }
        return h.now - began;
    };
    // The workers say that all is well: they hold the frame.
    CHECK(wait_for_fault() <= 1200 * kMillisecondUs);
    h.answered = h.frames();
    h.form();
    const TimeUs second = wait_for_fault();
    CHECK(second >= 1500 * kMillisecondUs);
    CHECK(second <= 2500 * kMillisecondUs);
    h.answered = h.frames();
    h.form();
    h.answer_all();
    CHECK(h.tokens("r") == right_answer(3, 30));
}

TEST_CASE("before anything is learnt an overdue RESULT is waited for, and longer each time") {
    Faulty h;
    h.submit("r", 3, 2);
    uint64_t faults = 0;
    for (const int bound : {120, 240, 480}) {
        for (int second = 0; second < bound - 1; ++second) {
            h.beat();
            h.say(wire::Ping{1});
            h.tick(kSecondUs);
        }
        CHECK(h.router->counters().routes_down == faults);
        h.beat();
        h.say(wire::Ping{1});
        h.tick(2 * kSecondUs);
        CHECK(h.router->counters().routes_down == ++faults);
        h.answered = h.frames();
        h.form();
    }
    CHECK(h.errors().empty());
    h.answer_all();
    CHECK(h.tokens("r") == right_answer(3, 2));
}

TEST_CASE("after a pause of its own the router judges nobody") {
    RouterHarness h;
    h.config.cluster.failure_threshold = 4;
    h.remake();
    h.bring_up();
    h.submit("r", 3, 30);
    for (int i = 0; i < 12; ++i) h.answer(h.result_of(h.answered++));
    h.now += 5 * kSecondUs;  // SIGSTOP
    h.router->on_tick(h.now);
    CHECK(h.router->counters().routes_down == 0);
    h.answer_all();
    CHECK(h.tokens("r") == right_answer(3, 30));
}

TEST_CASE("a drain of all at once ends a hand-over that has begun: the worker serves to the end") {
    Faulty h;
    h.submit("r", 3, 9);
    h.answer(h.result_of(h.answered++));
    h.hear(hello_of(h.config.cluster,
                    {kWorker + 7, "spare", wire::kRoleStage | wire::kRoleSampler, 0, 1}),
           kWorker + 7);
    h.hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {}, {}}, kWorker + 7);
    h.tick(200 * kMillisecondUs);
    const Route& other = h.router->cluster().routes().rbegin()->second;
    REQUIRE(other.generation == 2);
    h.router->on_link(other.link, true, h.now);
    h.hear(wire::Ready{2}, kWorker + 7);
    h.hear(wire::WorkerHeartbeat{wire::WorkerState::kDraining, 0, 0, 0,
                                 {{1, 0, h.frames(), h.answered, true, true}}, {}});
    h.router->on_tick(h.now);
    const size_t sent = h.frames();
    h.answer_all();
    REQUIRE(h.frames() == sent);  // what is in flight comes back, nothing more leaves
    REQUIRE(h.heard<wire::Done>().empty());
    h.router->drain(h.now);
    h.answer_all();
    check_answer(h, 3, 9);
}
