// Requests: admission, credit, cancel, duplicates, limits, resume, clients that go, drain.
#include <doctest/doctest.h>

#include <functional>

#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

using Codes = std::vector<std::string>;

}  // namespace

TEST_CASE("frames never exceed the worker's credit, in frames and in bytes") {
    for (const wire::Share& share : {wire::Share{1, 16u << 20, 4, 16},
                                     wire::Share{2, 16u << 20, 4, 16}, wire::Share{8, 1, 4, 16}}) {
        CAPTURE(share.frames);
        UpRouter h(share);
        for (const char* id : {"a", "b", "c", "d", "e", "f"}) h.submit(id, 90, 3);
        const size_t most = share.bytes == 1 ? 1 : std::min<size_t>(share.frames, 2);
        for (; h.answered < h.frames(); ++h.answered) {
            CHECK(h.frames() - h.answered <= most);
            h.answer(h.result_of(h.answered));
        }
        CHECK(h.heard<wire::Done>().size() == 6);
    }
}

TEST_CASE("cancel with frames in flight: slot and blocks return only with the RESULTs") {
    UpRouter h;
    h.submit("r", 190, 5);  // two frames of prefill are on their way
    REQUIRE(h.frames() == 2);
    CHECK(h.free_blocks() == 12);
    h.say(wire::Cancel{"r"});
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].finish_reason == "cancelled");
    CHECK(h.free_blocks() == 12);
    h.answer(h.result_of(0));
    CHECK(h.free_blocks() == 12);
    CHECK(h.free_slots() == 3);
    h.answer(h.result_of(1));
    CHECK(h.free_blocks() == 16);
    CHECK(h.free_slots() == 4);
    CHECK(h.frames() == 2);  // a cancelled sequence is in no later frame
    CHECK(h.heard<wire::Piece>().empty());
    CHECK(h.router->counters().results_uncommitted == 2);
}

TEST_CASE("a slot is not given to another sequence while a frame of the old one is in flight") {
    UpRouter h({4, 16u << 20, 1, 16});
    h.submit("a", 3, 5);
    h.submit("b", 3, 1);
    h.say(wire::Cancel{"a"});
    CHECK(h.frames() == 1);
    h.answer_all();
    REQUIRE(h.frames() == 2);
    CHECK(h.frame(1).frame.items[0].admission != h.frame(0).frame.items[0].admission);
    CHECK((h.frame(1).frame.items[0].flags & wire::kItemFirst) != 0);
    CHECK(h.heard<wire::Done>().size() == 2);
}

TEST_CASE("cancel of a request that waits, and of one that does not run") {
    RouterHarness h;
    h.submit("r", 3, 5);
    h.say(wire::Cancel{"r"});
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].finish_reason == "cancelled");
    h.say(wire::Cancel{"r"});
    CHECK(h.errors() == Codes{"invalid_request"});
    h.bring_up();
    CHECK(h.frames() == 0);
}

TEST_CASE("a duplicate request id does not disturb the one that runs") {
    UpRouter h;
    h.submit("r", 3, 3);
    h.submit("r", 9, 9);
    REQUIRE(h.errors() == Codes{"duplicate_id"});
    CHECK_FALSE(h.heard<wire::Failure>()[0].request_id.has_value());
    h.say(wire::Submit{"r", RouterHarness::ask(2, 1)}, "client-2");  // another client's own
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 1);
    CHECK(h.tokens("r").size() == 3);
    CHECK(h.outbox.heard<wire::Done>("client-2").size() == 1);
    h.submit("r", 2, 1);  // free again
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 2);
}

TEST_CASE("beyond max_queue_size the answer is queue_full at once") {
    RouterHarness h({4, 16u << 20, 4, 16}, 2);
    for (const char* id : {"a", "b", "c", "d"}) h.submit(id, 3, 1);
    CHECK(h.errors() == Codes{"queue_full", "queue_full"});
    CHECK(h.heard<wire::Failure>()[0].retryable);
    h.bring_up();
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 2);
}

TEST_CASE("what can never fit is refused: context, pool, vocabulary, model, empty") {
    UpRouter h({4, 16u << 20, 4, 2});  // a pool of 128 rows, a context of 256
    h.submit("context", 257, 1);
    h.submit("pool", 129, 1);
    h.submit("no room for a token", 128, 1);
    h.submit("empty", 0, 1);
    wire::Parameters unknown = RouterHarness::ask(1, 1);
    unknown.prompt = std::vector<uint32_t>{sim::kVocab};
    h.say(wire::Submit{"vocab", unknown});
    wire::Parameters model = RouterHarness::ask(1, 1);
    model.model = "another";
    h.say(wire::Submit{"model", model});
    wire::Parameters text = RouterHarness::ask(1, 1);
    text.prompt = std::string(5000, 'x');
    h.say(wire::Submit{"text", text});
    CHECK(h.errors() == Codes{"prompt_too_long", "prompt_too_long", "prompt_too_long",
                              "invalid_request", "invalid_request", "unknown_model",
                              "prompt_too_long"});
    for (const wire::Failure& failure : h.heard<wire::Failure>()) CHECK_FALSE(failure.retryable);
    CHECK(h.frames() == 0);
    h.submit("fits", 127, 100);  // and is cut to what is left
    h.answer_all();
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].completion_tokens == 1);
}

TEST_CASE("what waited for a route is cut or refused when its pool is smaller than the context") {
    RouterHarness h({4, 16u << 20, 4, 2});
    h.submit("too long", 150, 10);
    h.submit("just too long", 128, 1);
    h.submit("cut", 100, 100);
    h.submit("fits", 10, 3);
    CHECK(h.errors().empty());
    h.bring_up();
    h.answer_all();
    CHECK(h.errors() == Codes{"prompt_too_long", "prompt_too_long"});
    REQUIRE(h.heard<wire::Done>().size() == 2);
    CHECK(h.tokens("cut").size() == 28);
    CHECK(h.tokens("fits").size() == 3);
    CHECK(h.router->running() == 0);
    CHECK(h.router->waiting() == 0);
}

TEST_CASE("a request that finds no route in time gets no_route") {
    RouterHarness h;
    h.submit("r", 3, 1);
    for (int second = 0; second < 60; ++second) {
        CHECK(h.errors().empty());
        h.say(wire::Ping{1});
        h.tick(kSecondUs);
    }
    REQUIRE(h.errors() == Codes{"no_route"});
    CHECK(h.heard<wire::Failure>()[0].retryable);
}

namespace {

wire::Resume resume_after(uint32_t prompt_count, uint32_t max_tokens, uint32_t kept) {
    wire::Resume resume{"r", 1, RouterHarness::ask(prompt_count, max_tokens), {}};
    resume.progress.prompt_ids = std::vector<uint32_t>(prompt_count, 5);
    std::vector<uint32_t>& tokens = resume.progress.choices.emplace_back();
    for (uint32_t i = 0; i < kept; ++i) tokens.push_back(token_at(prompt_count - 1 + i));
    resume.progress.seed = 9;
    resume.progress.fingerprint = "000000000000002a";
    return resume;
}

std::string character(uint32_t token) {
    return std::string(size_t{1}, static_cast<char>(32 + token));
}

}  // namespace

TEST_CASE("RESUME continues behind the tokens that the client has") {
    UpRouter h;
    h.say(resume_after(3, 5, 2));
    const wire::Item item = h.frame(0).frame.items[0];
    CHECK(item.rows == 5);
    const auto sample = wire::decode_sample(item.sample, item.outputs.size());
    REQUIRE(sample.ok());
    CHECK(sample->index == 2);
    CHECK(sample->seed == 9);
    h.answer_all();
    CHECK(h.tokens("r") == std::vector<uint32_t>{token_at(4), token_at(5), token_at(6)});
    CHECK(h.heard<wire::Piece>()[0].index == 2);
    CHECK(h.heard<wire::Piece>()[0].text_offset == 2);
    CHECK(h.heard<wire::Done>()[0].completion_tokens == 5);
}

TEST_CASE("RESUME under another fingerprint is an error") {
    UpRouter h;
    wire::Resume resume = resume_after(3, 5, 2);
    resume.progress.fingerprint = "000000000000002b";
    h.say(resume);
    CHECK(h.errors() == Codes{"fingerprint_mismatch"});
    CHECK_FALSE(h.heard<wire::Failure>()[0].retryable);
}

TEST_CASE("RESUME with all tokens there only lacked its DONE, and the text that was held back") {
    UpRouter h;
    wire::Resume resume = resume_after(3, 2, 2);
    resume.parameters.stop = {character(token_at(3)) + "never"};
    h.say(resume);
    CHECK(h.frames() == 0);
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].finish_reason == "length");
    REQUIRE(h.heard<wire::Piece>().size() == 1);
    CHECK(h.heard<wire::Piece>()[0].text == character(token_at(3)));
    CHECK(h.heard<wire::Piece>()[0].text_offset == 1);
}

TEST_CASE("RESUME applies the stop rules to the tokens it brings before anything is computed") {
    UpRouter h;
    wire::Resume resume = resume_after(3, 50, 2);
    resume.parameters.stop = {character(token_at(2)) + character(token_at(3))};
    h.say(resume);
    CHECK(h.frames() == 0);
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.heard<wire::Done>()[0].finish_reason == "stop");
    CHECK(std::get<std::string>(h.heard<wire::Done>()[0].stop) == resume.parameters.stop[0]);
    CHECK(h.heard<wire::Done>()[0].completion_tokens == 2);
}

TEST_CASE(
    "a RESUME of a higher attempt takes the place of the one that runs, a lower one does not") {
    UpRouter h;
    h.say(resume_after(3, 5, 1));
    h.say(resume_after(3, 5, 1));  // the same attempt once more
    CHECK(h.errors() == Codes{"duplicate_id"});
    CHECK_FALSE(h.heard<wire::Failure>()[0].request_id.has_value());
    wire::Resume again = resume_after(3, 5, 2);
    again.attempt = 2;
    h.say(again);
    CHECK(h.router->running() + h.router->waiting() == 1);
    h.answer_all();
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(h.tokens("r") == std::vector<uint32_t>{token_at(4), token_at(5), token_at(6)});
    CHECK(h.free_blocks() == 16);
}

TEST_CASE("after a pause of its own the router judges nobody") {
    UpRouter h;
    h.submit("r", 3, 2);
    h.now += 100 * kSecondUs;
    h.router->on_tick(h.now);
    CHECK(h.router->cluster().workers().size() == 1);
    CHECK(h.router->running() == 1);
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 1);
}

TEST_CASE("a client that is gone or silent takes its requests with it, and only its own") {
    for (const bool silent : {false, true}) {
        CAPTURE(silent);
        UpRouter h;
        h.submit("r", 3, 50);
        h.say(wire::Submit{"other", RouterHarness::ask(3, 50)}, "client-2");
        CHECK(h.router->running() == 2);
        if (silent) {
            for (int second = 0; second < 31; ++second) {
                h.beat();
                h.say(wire::Ping{1}, "client-2");
                h.tick(kSecondUs);
            }
        } else {
            h.router->on_client_gone(kClient, h.now);
            h.router->on_client_gone(kClient, h.now);
        }
        CHECK(h.router->running() == 1);
        h.answer_all();
        CHECK(h.heard<wire::Done>().empty());
        CHECK(h.outbox.heard<wire::Done>("client-2").size() == 1);
        CHECK(h.free_blocks() == 16);
    }
}


TEST_CASE("drain finishes what runs, refuses what comes, lets the workers go") {
    UpRouter h;
    h.submit("r", 3, 2);
    h.router->drain(h.now);
    h.submit("late", 3, 2);
    CHECK(h.errors() == Codes{"draining"});
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 1);
    CHECK_FALSE(h.router->finished());
    h.tick(kMillisecondUs);
    CHECK(h.outbox.controls<wire::Fence>().back().through == 1);
    CHECK_FALSE(h.router->finished());  // not before the worker has heard it
    h.hear(wire::Fenced{1});
    h.tick(kMillisecondUs);
    CHECK(h.router->finished());
}

TEST_CASE("a drain ends in time though a worker never answers, and at once when asked twice") {
    UpRouter h;
    h.submit("r", 3, 2);
    h.router->drain(h.now);
    for (int second = 0; second < 31; ++second) {
        h.beat();
        h.say(wire::Ping{1});
        h.tick(kSecondUs);
    }
    CHECK(h.errors() == Codes{"draining"});
    CHECK(h.router->finished());
    CHECK(h.outbox.controls<wire::Fence>().back().through == 1);

    UpRouter twice;
    twice.submit("r", 3, 2);
    twice.router->drain(twice.now);
    CHECK_FALSE(twice.router->finished());
    twice.router->drain(twice.now);
    CHECK(twice.router->finished());
}

TEST_CASE("a drain waits 3 s for workers that are all gone, and not for what waits for them") {
    const auto drain = [](RouterHarness& h) {  // how long it takes
        const TimeUs began = h.now;
        h.router->drain(h.now);
        while (!h.router->finished() && h.now - began < 30 * kSecondUs) {
            h.say(wire::Ping{1});
            h.tick(100 * kMillisecondUs);
        }
        return h.now - began;
    };
    for (const bool had_workers : {false, true}) {
        CAPTURE(had_workers);
        RouterHarness h;
        if (had_workers) h.bring_up();
        h.submit("r", 3, 2);
        if (had_workers) h.hear(wire::Bye{"drained"});
        const TimeUs took = drain(h);
        CHECK(took >= 2800 * kMillisecondUs);
        CHECK(took <= 3200 * kMillisecondUs);
        CHECK(h.errors() == Codes{"draining"});
        CHECK(h.heard<wire::Failure>().back().retryable);
    }
    RouterHarness idle;  // nobody waits: it is over at once
    CHECK(drain(idle) == 0);
}

TEST_CASE("PONG tells what was sent of the client's requests before it") {
    RouterHarness h;
    h.bring_up();
    h.say(wire::Ping{1});
    CHECK_FALSE(h.heard<wire::Pong>().back().requests);  // as clients of before ask
    const auto running = [&](const std::string& client = kClient) {
        h.say(wire::Ping{2, true}, client);
        REQUIRE(h.heard<wire::Pong>(client).back().requests);
        return *h.heard<wire::Pong>(client).back().requests;
    };
    CHECK(running().empty());
    h.submit("a", 5, 3);
    h.submit("b", 5, 9);
    using List = std::vector<wire::RunningRequest>;
    CHECK(running() == List{{"a", 0, 0}, {"b", 0, 0}});
    CHECK(running("client-2").empty());
    h.answer(h.result_of(h.answered++));
    for (const wire::RunningRequest& one : running())
        CHECK(one.tokens == h.tokens(one.request_id).size());
    h.answer_all();
    CHECK(running().empty());
    h.say(resume_after(5, 9, 2));
    CHECK(running() == List{{"r", 1, 2}});
    h.answer_all();
    CHECK(running().empty());
}
