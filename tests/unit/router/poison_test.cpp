// A request that kills its workers is found, and ends with an error of its own; nobody else does.
#include <doctest/doctest.h>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

using Codes = std::vector<std::string>;

Route three_hops() {
    Route route;
    route.generation = 5;
    route.hops = {10, 20, 30};
    route.reports.resize(4);
    route.sent = 6;
    route.answered = 2;
    return route;
}

std::vector<FrameRows> frames() {
    std::vector<FrameRows> all;
    for (FrameNumber number = 3; number <= 6; ++number)
        all.push_back({number, {{number * 100, 0, 1, 0}}});
    return all;
}

void report(Accident& accident, Incarnation worker, uint8_t hop, FrameNumber accepted,
            FrameNumber forwarded) {
    accident.note_report(worker, {5, hop, accepted, forwarded, true, true});
}

}  // namespace

TEST_CASE("what a worker was at: the frame behind the last one that its next hop accepted") {
    Accident accident(three_hops(), frames(), 0);
    accident.note_death(20);
    CHECK_FALSE(accident.verdict(0).has_value());
    report(accident, 30, 2, 3, 2);
    CHECK_FALSE(accident.verdict(0).has_value());  // did it have a frame at all?
    SUBCASE("it had one") {
        report(accident, 10, 0, 6, 5);
        REQUIRE(accident.verdict(0).has_value());
        CHECK(accident.verdict(0)->at(0).sequence == 400);
    }
    SUBCASE("it was idle") {
        report(accident, 10, 0, 4, 3);
        REQUIRE(accident.verdict(0).has_value());
        CHECK(accident.verdict(0)->empty());
    }
    SUBCASE("those before it do not answer: what they said earlier has to do") {
        CHECK(accident.verdict(kSecondUs).has_value());
    }
}

TEST_CASE("a worker that dies after it has said how far it had come did not die of it") {
    Accident accident(three_hops(), frames(), 0);
    report(accident, 10, 0, 6, 5);
    report(accident, 20, 1, 4, 3);
    report(accident, 30, 2, 3, 2);
    accident.note_death(20);
    CHECK_FALSE(accident.verdict(5 * kSecondUs).has_value());
}

TEST_CASE("of the first and the last hop, of two at once, of nobody") {
    Accident first(three_hops(), frames(), 0);
    first.note_death(10);
    report(first, 20, 1, 5, 5);
    CHECK(first.verdict(0)->at(0).sequence == 600);

    Accident last(three_hops(), frames(), 0);
    last.note_death(30);
    report(last, 20, 1, 6, 6);
    CHECK(last.verdict(0)->at(0).sequence == 300);  // the last RESULT was 2

    Accident two(three_hops(), frames(), 0);
    two.note_death(10);
    two.note_death(20);
    report(two, 30, 2, 4, 4);
    CHECK(two.verdict(0)->at(0).sequence == 500);

    Accident nobody(three_hops(), frames(), 0);
    report(nobody, 10, 0, 6, 6);
    report(nobody, 99, 1, 6, 6);   // not that hop's worker
    report(nobody, 20, 60, 6, 6);  // no hop
    CHECK_FALSE(nobody.verdict(5 * kSecondUs).has_value());
    CHECK_FALSE(nobody.is_over(5 * kSecondUs));
    CHECK(nobody.is_over(10 * kSecondUs));
}

namespace {

// One worker, which dies whenever it computes the row behind a certain count of tokens of "bad".
struct Deadly : RouterHarness {
    static constexpr uint32_t kDeadlyRow = 8;
    static constexpr uint32_t kBadPrompt = 5;

    explicit Deadly(uint32_t frames_in_flight = 0, uint32_t prefill_rows = 100)
        : RouterHarness({4, 16u << 20, 8, 64}) {
        config.max_batch_size = 8;
        config.frames_in_flight = frames_in_flight;
        config.prefill_rows = prefill_rows;
        remake();
        bring_up();
    }
    static bool is_bad(const wire::Item& item) {
        return item.admission != 0 && item.position <= kDeadlyRow &&
               item.position + item.rows > kDeadlyRow;
    }
    // Its prompt's token tells "bad" from the others.
    bool kills(size_t index) const {
        const SentFrame sent = frame(index);
        size_t row = 0;
        for (const wire::Item& item : sent.frame.items) {
            const uint8_t* ids = sent.frame.payload.data() + row * sizeof(uint32_t);
            uint32_t id = 0;
            std::memcpy(&id, ids, sizeof id);
            row += item.rows;
            if (item.position == 0) bad_slot_is_[item.slot] = id == 77;
            if (bad_slot_is_[item.slot] && is_bad(item)) return true;
        }
        return false;
    }
    void say_bad(const std::string& id) {
        wire::Parameters p = ask(kBadPrompt, 40);
        p.prompt = std::vector<uint32_t>(kBadPrompt, 77);
        say(wire::Submit{id, p});
    }
    void run() {
        while (answered < frames() && deaths < 20) {
            if (!kills(answered)) {
                answer(result_of(answered++));
                continue;
            }
            ++deaths;
            router->on_worker_gone(peer_of(kWorker), now);
            tick(300 * kMillisecondUs);
            answered = frames();
            bad_slot_is_.clear();
            bring_up();
        }
    }

    int deaths = 0;
    mutable std::map<Slot, bool> bad_slot_is_;
};

}  // namespace

TEST_CASE("a poisonous request among seven: halved until it is alone, then it fails") {
    Deadly h;
    for (int i = 0; i < 3; ++i) h.submit("a" + std::to_string(i), 5, 30);
    h.say_bad("bad");
    for (int i = 0; i < 3; ++i) h.submit("b" + std::to_string(i), 5, 30);
    h.run();
    CHECK(h.errors() == Codes{"poison"});
    REQUIRE(!h.heard<wire::Failure>().empty());
    CHECK(h.heard<wire::Failure>()[0].request_id == "bad");
    CHECK_FALSE(h.heard<wire::Failure>()[0].retryable);
    CHECK(h.heard<wire::Done>().size() == 6);
    CHECK(h.deaths <= 6);  // together, halves of 7, 4, 2, alone and alone
    CHECK(h.router->running() == 0);
}

TEST_CASE("a frame of suspects is the only one on its way: nobody else is taken for it") {
    Deadly h(3, 5);
    for (int i = 0; i < 3; ++i) h.submit("a" + std::to_string(i), 5, 30);
    h.say_bad("bad");
    while (h.answered < h.frames() && h.deaths < 20) {
        const size_t first = h.answered;
        while (h.answered < h.frames() && !h.kills(h.answered)) ++h.answered;
        if (h.answered == h.frames()) {
            h.answered = first;
            h.answer(h.result_of(h.answered++));
            continue;
        }
        // Those before it were computed; their RESULTs are lost with the worker.
        ++h.deaths;
        h.router->on_worker_gone(peer_of(kWorker), h.now);
        h.tick(300 * kMillisecondUs);
        h.answered = h.frames();
        h.bad_slot_is_.clear();
        h.bring_up();
        if (h.deaths == 1) CHECK(h.frames() - h.answered == 1);  // and not three
    }
    CHECK(h.errors() == Codes{"poison"});
    CHECK(h.heard<wire::Done>().size() == 3);
    CHECK(h.deaths < 20);
}

TEST_CASE("a poisonous request alone: two deaths") {
    Deadly h;
    h.say_bad("bad");
    h.run();
    CHECK(h.errors() == Codes{"poison"});
    CHECK(h.deaths == 2);
}

TEST_CASE("deaths at other rows, or with a token in between, are nobody's fault") {
    RouterHarness h;
    h.bring_up();
    h.submit("r", 5, 20);
    for (int i = 0; i < 6; ++i) {
        h.answer(h.result_of(h.answered++));
        h.router->on_worker_gone(peer_of(kWorker), h.now);
        h.tick(300 * kMillisecondUs);
        h.answered = h.frames();
        h.bring_up();
    }
    h.answer_all();
    CHECK(h.errors().empty());
    CHECK(h.tokens("r").size() == 20);
}

TEST_CASE("new prompts wait for suspects") {
    RouterHarness h({16, 64u << 20, 16, 200});
    h.config.max_batch_size = 16;
    h.remake();
    h.bring_up();
    for (int i = 0; i < 4; ++i) h.submit("r" + std::to_string(i), 60, 30);
    while (h.router->counters().tokens_committed < 20) h.answer(h.result_of(h.answered++));
    h.router->on_worker_gone(peer_of(kWorker), h.now);
    h.tick(300 * kMillisecondUs);
    h.answered = h.frames();
    h.submit("new", 60, 2);
    h.bring_up();
    const size_t first = h.answered;
    h.answer_all();
    CHECK(h.errors().empty());
    CHECK(h.heard<wire::Done>().size() == 5);
    bool new_began = false;
    Admission newest = 0;
    for (size_t i = first; i < h.frames(); ++i)
        for (const wire::Item& item : h.frame(i).frame.items)
            newest = std::max(newest, item.admission);
    for (size_t i = first; i < h.frames(); ++i) {
        size_t replays = 0;
        for (const wire::Item& item : h.frame(i).frame.items) {
            new_began |= item.admission == newest;
            replays += item.rows > 1 && item.admission != newest;
        }
        if (new_began) CHECK(replays == 0);
    }
    CHECK(new_began);
}

TEST_CASE("a worker that was silent before it could not be reached is not known to have died") {
    Deadly h;
    h.say_bad("bad");
    for (int i = 0; i < 4; ++i) {
        while (h.answered < h.frames() && !h.kills(h.answered)) h.answer(h.result_of(h.answered++));
        REQUIRE(h.answered < h.frames());
        h.tick(6 * kSecondUs);
        h.router->on_worker_gone(peer_of(kWorker), h.now);
        h.tick(300 * kMillisecondUs);
        h.answered = h.frames();
        h.bad_slot_is_.clear();
        h.bring_up();
    }
    CHECK(h.errors().empty());
}
