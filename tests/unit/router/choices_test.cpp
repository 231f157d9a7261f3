// Requests for several choices: one prompt, n sequences, one end.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

using Ids = std::vector<uint32_t>;
using Codes = std::vector<std::string>;

constexpr wire::Share kRoomy = {8, 64u << 20, 16, 128};

struct Choices : RouterHarness {
    explicit Choices(wire::Share share = kRoomy) : RouterHarness(share) { bring_up(); }

    static wire::Parameters ask(uint32_t prompt, uint32_t tokens, uint32_t n) {
        wire::Parameters parameters = RouterHarness::ask(prompt, tokens);
        parameters.n = n;
        return parameters;
    }
    void submit(uint32_t prompt, uint32_t tokens, uint32_t n) {
        say(wire::Submit{"r", ask(prompt, tokens, n)});
    }
    void answer_next() { answer(result_of(answered++)); }
    // The samples of a frame's items, by choice.
    std::map<uint32_t, wire::Item> by_choice(size_t index) const {
        std::map<uint32_t, wire::Item> items;
        for (const wire::Item& item : frame(index).frame.items) {
            const auto sample = wire::decode_sample(item.sample, item.outputs.size());
            REQUIRE(sample.ok());
            items[sample->choice] = item;
        }
        return items;
    }
    // Frames until one has rows of `choice`; its index.
    size_t until(uint32_t choice) {
        while (!by_choice(frames() - 1).contains(choice)) answer_next();
        return frames() - 1;
    }
    std::map<uint32_t, Ids> tokens() const {
        std::map<uint32_t, Ids> all;
        for (const wire::Piece& piece : heard<wire::Piece>()) {
            Ids& ids = all[piece.choice];
            CHECK(piece.index == ids.size());
            ids.insert(ids.end(), piece.token_ids.begin(), piece.token_ids.end());
        }
        return all;
    }
    wire::Done done() const {
        REQUIRE(heard<wire::Done>().size() == 1);
        return heard<wire::Done>()[0];
    }
    void check_over() {
        CHECK(router->running() == 0);
        CHECK(router->waiting() == 0);
        while (answered < frames()) answer_next();
        CHECK(free_slots() == kRoomy.slots);
        CHECK(free_blocks() == kRoomy.blocks);
        const size_t sent = frames();
        tick(kSecondUs);
        CHECK(frames() == sent);
    }
};

Ids expected(uint32_t prompt, uint32_t count) {
    Ids tokens;
    for (uint32_t i = 0; i < count; ++i) tokens.push_back(token_at(prompt - 1 + i));
    return tokens;
}

}  // namespace

TEST_CASE("the first choice runs alone until it has a token, then all do") {
    Choices h;
    h.submit(150, 3, 3);
    REQUIRE(h.frames() == 2);
    CHECK(h.frame(0).frame.items.size() == 1);
    CHECK(h.router->running() == 1);
    h.answer_next();
    h.answer_next();
    CHECK(h.router->running() == 3);
    const size_t at = h.until(2);
    const wire::Item item = h.by_choice(at)[2];
    CHECK(item.position == 128);  // two full blocks come from the prefix cache
    CHECK(item.rows == 22);
    h.answer_all();
    CHECK(h.tokens() == std::map<uint32_t, Ids>{
                            {0, expected(150, 3)}, {1, expected(150, 3)}, {2, expected(150, 3)}});
    h.check_over();
}

TEST_CASE("each choice has its end, the request one") {
    Choices h;
    wire::Parameters p = Choices::ask(3, 4, 2);
    p.stop_token_ids = {token_at(4)};
    h.say(wire::Submit{"r", p});
    h.answer_next();
    h.answer_all();
    std::map<uint32_t, wire::ChoiceDone> ends;
    for (const wire::ChoiceDone& end : h.heard<wire::ChoiceDone>()) ends[end.choice] = end;
    REQUIRE(ends.size() == 2);
    for (const uint32_t choice : {0u, 1u})
        CHECK(ends[choice] == wire::ChoiceDone{"r", choice, "stop", token_at(4), 2});
    CHECK(h.done().finish_reason == "stop");
    CHECK(std::get<uint32_t>(h.done().stop) == token_at(4));
    CHECK(h.done().completion_tokens == 4);
    CHECK(h.done().prompt_tokens == 3);
    CHECK(h.heard<wire::Accepted>().size() == 1);
    h.check_over();
}

TEST_CASE("a request for one choice has no end but its own") {
    Choices h;
    h.submit(3, 2, 1);
    h.answer_all();
    CHECK(h.heard<wire::ChoiceDone>().empty());
    CHECK(h.done().completion_tokens == 2);
}

TEST_CASE("the others begin though the first ends with its first token") {
    Choices h;
    h.submit(3, 2, 3);
    wire::ResultFrame result = h.result_of(0);
    result.items[0].outputs[0].token = 0;  // the model's end
    h.answer(result);
    ++h.answered;
    REQUIRE(h.heard<wire::ChoiceDone>().size() == 1);
    CHECK(h.heard<wire::Done>().empty());
    h.answer_all();
    CHECK(h.tokens() == std::map<uint32_t, Ids>{{1, expected(3, 2)}, {2, expected(3, 2)}});
    CHECK(h.done().finish_reason == "stop");  // of choice 0
    CHECK(h.done().completion_tokens == 4);
    h.check_over();
}

TEST_CASE("nothing to generate ends all choices, log-probabilities of the prompt are the first's") {
    Choices h;
    wire::Parameters p = Choices::ask(5, 0, 3);
    h.say(wire::Submit{"r", p});
    CHECK(h.frames() == 0);
    CHECK(h.heard<wire::ChoiceDone>().size() == 3);
    CHECK(h.done().finish_reason == "length");
    p.prompt_logprobs = 1;
    h.say(wire::Submit{"scored", p});
    h.answer_all();
    CHECK(h.heard<wire::ChoiceDone>().size() == 6);
    CHECK(h.heard<wire::Done>().size() == 2);
    size_t entries = 0;
    for (const wire::PromptPiece& piece : h.heard<wire::PromptPiece>())
        entries += piece.entries.size();
    CHECK(entries == 5);
    p.max_tokens = 2;
    h.say(wire::Submit{"both", p});
    h.answer_all();
    entries = 0;
    for (const wire::PromptPiece& piece : h.heard<wire::PromptPiece>())
        entries += piece.entries.size();
    CHECK(entries == 10);
    h.check_over();
}

TEST_CASE("cancel ends all choices, begun or not, with one DONE") {
    for (const bool begun : {false, true}) {
        CAPTURE(begun);
        Choices h;
        h.submit(3, 50, 3);
        if (begun) {
            h.until(2);
            h.answer_next();
        }
        size_t committed = 0;
        for (const auto& [choice, ids] : h.tokens()) committed += ids.size();
        CHECK((committed >= 4) == begun);
        h.say(wire::Cancel{"r"});
        CHECK(h.done().finish_reason == "cancelled");
        CHECK(h.done().completion_tokens == committed);
        CHECK(h.heard<wire::ChoiceDone>().empty());
        h.check_over();
    }
}

TEST_CASE("an error of one choice is the request's, once, with the tokens of all") {
    Choices h;
    h.submit(3, 50, 3);
    h.until(2);
    h.answer_next();
    while (h.by_choice(h.answered).size() < 2) h.answer_next();
    size_t committed = 0;
    for (const auto& [choice, ids] : h.tokens()) committed += ids.size();
    wire::ResultFrame result = h.result_of(h.answered++);
    result.items[0].error = wire::ItemError::kNonFinite;
    result.items[0].outputs.clear();
    h.answer(result);
    REQUIRE(h.errors() == Codes{"non_finite"});
    CHECK(h.heard<wire::Failure>()[0].committed == committed);
    CHECK(h.heard<wire::Done>().empty());
    h.check_over();
}

TEST_CASE("no workers, a client that goes, a deadline, a drain: one end for all choices") {
    for (const std::string how : {"route", "client", "deadline", "drain"}) {
        CAPTURE(how);
        Choices h;
        wire::Parameters p = Choices::ask(3, 200, 3);
        if (how == "deadline") p.deadline_ms = 3000;
        h.say(wire::Submit{"r", p});
        h.until(2);
        if (how == "route") h.router->on_worker_gone(peer_of(kWorker), h.now);
        if (how == "client") h.router->on_client_gone(kClient, h.now);
        if (how == "drain") h.router->drain(h.now);
        for (int second = 0; second < (how == "route" ? 62 : 31); ++second) {
            if (how != "route") h.beat();
            h.say(wire::Ping{1});
            h.tick(kSecondUs);
        }
        const std::map<std::string, std::string> code{{"route", "no_route"},
                                                      {"client", "client_lost"},
                                                      {"deadline", "deadline_exceeded"},
                                                      {"drain", "draining"}};
        CHECK(h.errors() == Codes{code.at(how)});
        CHECK(h.heard<wire::Done>().empty());
        CHECK(h.router->running() == 0);
        CHECK(h.router->waiting() == 0);
    }
}

TEST_CASE("the others wait for a place as long as it takes: their request has been admitted") {
    RouterHarness h({8, 64u << 20, 1, 128});  // one place
    h.config.queue_timeout_us = kSecondUs;
    h.remake();
    h.bring_up();
    h.say(wire::Submit{"r", Choices::ask(3, 60, 3)});
    for (int second = 0; second < 20; ++second) {
        h.answer(h.result_of(h.answered++));
        h.beat();
        h.say(wire::Ping{1});
        h.tick(800 * kMillisecondUs);  // not yet overdue
    }
    h.answer_all();
    CHECK(h.errors().empty());
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].completion_tokens == 180);
}

namespace {

wire::Resume resume_with(std::vector<Ids> kept, uint32_t max_tokens) {
    const auto n = static_cast<uint32_t>(kept.size());
    wire::Resume resume{"r", 1, Choices::ask(3, max_tokens, n), {}};
    resume.progress = {Ids(3, 5), std::move(kept), 9, "000000000000002a"};
    return resume;
}

}  // namespace

TEST_CASE("RESUME continues each choice behind its own tokens") {
    Choices h;
    h.say(resume_with({expected(3, 2), expected(3, 5), {}}, 5));  // the second is complete
    CHECK(h.by_choice(0).at(0).rows == 5);
    h.answer_all();
    const auto pieces = h.heard<wire::Piece>();
    const auto first_index = [&](uint32_t choice) {
        const auto piece = std::find_if(pieces.begin(), pieces.end(), [&](const wire::Piece& p) {
            return p.choice == choice;
        });
        return piece == pieces.end() ? UINT32_MAX : piece->index;
    };
    CHECK(first_index(0) == 2);
    CHECK(first_index(1) == UINT32_MAX);
    CHECK(first_index(2) == 0);
    CHECK(h.heard<wire::ChoiceDone>().size() == 3);
    CHECK(h.done().completion_tokens == 15);
    h.check_over();
}

TEST_CASE("RESUME with all choices complete lacked its DONE only") {
    Choices h;
    h.say(resume_with({expected(3, 2), expected(3, 2)}, 2));
    CHECK(h.frames() == 0);
    CHECK(h.heard<wire::ChoiceDone>().size() == 2);
    CHECK(h.done().completion_tokens == 4);
}

TEST_CASE("RESUME with tokens that cannot be is an error, whichever choice has them") {
    for (const size_t bad : {size_t{0}, size_t{2}}) {
        CAPTURE(bad);
        Choices h;
        std::vector<Ids> kept(3, expected(3, 2));
        kept[bad] = {sim::kVocab};
        h.say(resume_with(kept, 9));
        CHECK(h.errors() == Codes{"invalid_request"});
        CHECK(h.heard<wire::Accepted>().empty());
    }
    Choices h;
    wire::Resume resume = resume_with({{1}, {1}, {2, 1}}, 9);  // goes on behind a stop id
    resume.parameters.stop_token_ids = {2};
    h.say(resume);
    h.answer_all();
    CHECK(h.errors() == Codes{"invalid_request"});
    h.check_over();
}

TEST_CASE("a RESUME of a higher attempt takes the place of all choices") {
    Choices h;
    h.submit(3, 50, 3);
    h.until(2);
    h.say(resume_with({expected(3, 1), {}}, 3));
    h.answer_all();
    CHECK(h.errors().empty());
    CHECK(h.done().completion_tokens == 6);
    h.check_over();
}
