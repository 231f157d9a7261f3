// Who has a place: prefix cache, growth, preemption, fair shares, deadlines.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "chatloop/core/limits.hpp"
#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

struct Room : RouterHarness {
    explicit Room(wire::Share share, uint32_t headroom = 0, TimeUs queue_timeout_us = 0)
        : RouterHarness(share) {
        config.kv_headroom_tokens = headroom;
        config.queue_timeout_us = queue_timeout_us;
        remake();
        bring_up();
    }
    void submit_for(const std::string& client, const std::string& id, uint32_t prompt,
                    uint32_t tokens, int32_t priority = 0) {
        wire::Parameters parameters = ask(prompt, tokens);
        parameters.priority = priority;
        say(wire::Submit{id, parameters}, client);
    }
    std::vector<std::string> finished(const std::string& client = kClient) const {
        std::vector<std::string> ids;
        for (const wire::Done& done : heard<wire::Done>(client)) ids.push_back(done.request_id);
        return ids;
    }
    std::vector<uint32_t> tokens_of(const std::string& client, const std::string& id) const {
        std::vector<uint32_t> all;
        for (const wire::Piece& piece : heard<wire::Piece>(client))
            if (piece.request_id == id)
                all.insert(all.end(), piece.token_ids.begin(), piece.token_ids.end());
        return all;
    }
    uint64_t preemptions() const { return router->counters().preemptions; }
};

std::vector<uint32_t> expected(uint32_t prompt, uint32_t count) {
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < count; ++i) tokens.push_back(token_at(prompt - 1 + i));
    return tokens;
}

constexpr wire::Share kRoomy = {8, 64u << 20, 16, 128};

}  // namespace

TEST_CASE("a prompt that begins like an earlier one starts behind the blocks that are known") {
    Room h(kRoomy);
    h.submit("first", 200, 4);
    h.answer_all();
    const size_t before = h.frames();
    h.submit("second", 200, 4);
    const wire::Item item = h.frame(before).frame.items[0];
    CHECK(item.flags == wire::kItemFirst);
    CHECK(item.position == 192);
    CHECK(item.rows == 8);
    CHECK(item.blocks.size() == 4);
    h.answer_all();
    CHECK(h.tokens("first") == h.tokens("second"));
    CHECK(h.router->counters().prefix_tokens == 192);
}

TEST_CASE("items that name very many cached blocks are left for the next frame, not too much") {
    constexpr uint32_t kPrompt = 2048 * kBlockRows + 2, kRequests = 80;
    RouterHarness h({8, 64u << 20, kRequests + 2, 4096});
    h.config.context_length = kPrompt + 10;
    h.config.max_sequences = kRequests + 2;
    h.config.prefill_rows = 256;
    h.remake();
    h.bring_up();
    h.submit("first", kPrompt, 1);
    h.answer_all();
    h.submit("busy", 100, 1);
    h.submit("busy too", 101, 1);
    const size_t before = h.frames();
    for (uint32_t i = 0; i < kRequests; ++i) h.submit(std::to_string(i), kPrompt, 1);
    REQUIRE(h.frames() == before);
    h.answer_all();
    REQUIRE(h.frames() == before + 2);
    const size_t fit = kFrameItemBytesMax / (2048 + 1) / kBlockIdBytesMax;
    CHECK(h.frame(before).frame.items.size() == 1 + fit);  // and the rest of "busy too"
    CHECK(h.frame(before).bytes.size() <= kFrameOverheadBytes);
    CHECK(h.heard<wire::Done>().size() == kRequests + 3);
}

TEST_CASE("two that begin alike at the same moment compute both, and both are right") {
    Room h(kRoomy);
    wire::Parameters parameters = Room::ask(130, 3);
    h.router->on_client(kClient, wire::encode_client(wire::Submit{"a", parameters}), h.now);
    h.router->on_client(kClient, wire::encode_client(wire::Submit{"b", parameters}), h.now);
    while (h.router->has_work()) h.router->run_unit(h.now);
    h.answer_all();
    CHECK(h.tokens("a") == expected(130, 3));
    CHECK(h.tokens("b") == expected(130, 3));
    CHECK(h.free_blocks() == 128);
}

TEST_CASE("nothing is found for prompt log-probabilities, which need every row") {
    Room h(kRoomy);
    h.submit("first", 200, 1);
    h.answer_all();
    wire::Parameters parameters = Room::ask(200, 1);
    parameters.prompt_logprobs = 0;
    const size_t before = h.frames();
    h.say(wire::Submit{"second", parameters});
    CHECK(h.frame(before).frame.items[0].position == 0);
    h.answer_all();
    CHECK(h.heard<wire::PromptPiece>().size() >= 2);
}

TEST_CASE("answers grow block by block, and the latest gives way when blocks are short") {
    Room h({8, 64u << 20, 4, 4});  // 256 positions
    h.submit("old", 60, 130);      // grows to three blocks
    h.submit("late", 60, 130);
    CHECK(h.free_blocks() == 2);
    h.answer_all();
    CHECK(h.preemptions() >= 1);
    CHECK(h.tokens("old") == expected(60, 130));
    CHECK(h.tokens("late") == expected(60, 130));
    CHECK(h.finished() == std::vector<std::string>{"old", "late"});
    CHECK(h.free_blocks() == 4);
}

TEST_CASE("the higher priority goes first, and keeps its blocks") {
    Room h({8, 64u << 20, 1, 16});  // one place
    h.submit_for(kClient, "running", 5, 3);
    h.submit_for(kClient, "low", 5, 3, -1);
    h.submit_for(kClient, "high", 5, 3, 1);
    h.answer_all();
    CHECK(h.finished() == std::vector<std::string>{"running", "high", "low"});

    Room short_of({8, 64u << 20, 4, 4});
    short_of.submit_for(kClient, "important", 60, 130, 1);
    short_of.submit_for(kClient, "other", 60, 130, 0);
    short_of.answer_all();
    CHECK(short_of.finished() == std::vector<std::string>{"important", "other"});
    CHECK(short_of.errors().empty());
}

TEST_CASE("a client that has every place gives one to a client that has none") {
    Room h({8, 64u << 20, 4, 64});
    for (int i = 0; i < 20; ++i) h.submit_for("busy", "b" + std::to_string(i), 5, 30);
    h.answer(h.result_of(h.answered++));
    h.submit_for("single", "s", 5, 2);
    size_t results = 0;
    while (h.finished("single").empty() && h.answered < h.frames()) {
        h.answer(h.result_of(h.answered++));
        ++results;
    }
    CHECK(h.finished("single") == std::vector<std::string>{"s"});
    CHECK(results <= 6);  // what was in flight, then its prompt and its second token
    CHECK(h.preemptions() == 1);
    h.answer_all();
    CHECK(h.finished("busy").size() == 20);
    for (int i = 0; i < 20; ++i)
        CHECK(h.tokens_of("busy", "b" + std::to_string(i)) == expected(5, 30));
}

TEST_CASE("a request that runs out of time ends, wherever it is, and says how far it came") {
    Room h({8, 64u << 20, 1, 16});
    wire::Parameters parameters = Room::ask(5, 100);
    parameters.deadline_ms = 1000;
    h.say(wire::Submit{"runs", parameters});
    h.say(wire::Submit{"waits", parameters});
    for (int i = 0; i < 3; ++i) h.answer(h.result_of(h.answered++));
    for (int i = 0; i < 6; ++i) {
        h.beat();
        h.tick(200 * kMillisecondUs);
    }
    CHECK(h.errors() == std::vector<std::string>{"deadline_exceeded", "deadline_exceeded"});
    CHECK(h.heard<wire::Failure>()[0].committed == 3);
    h.answer_all();
    CHECK(h.free_slots() == 1);
    CHECK(h.free_blocks() == 16);
}

TEST_CASE("queue_timeout ends what found no place in time, and nothing else") {
    Room h({8, 64u << 20, 1, 16}, 0, kSecondUs);
    h.submit("runs", 5, 100);
    h.submit("waits", 5, 100);
    for (int i = 0; i < 10; ++i) {
        h.beat();
        h.tick(200 * kMillisecondUs);
        h.answer(h.result_of(h.answered++));
    }
    CHECK(h.errors() == std::vector<std::string>{"queue_timeout"});
    CHECK(h.heard<wire::Failure>()[0].request_id == "waits");
    CHECK(h.heard<wire::Failure>()[0].retryable);
}
