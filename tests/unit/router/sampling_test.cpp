// What the sampler is told with each row: masks, biases, penalties with the history they look at;
// and how many of such samples a frame takes.
#include <doctest/doctest.h>

#include <map>

#include "chatloop/core/limits.hpp"
#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

using Ids = std::vector<uint32_t>;
using Counts = std::map<uint32_t, std::pair<uint32_t, uint32_t>>;  // prompt, output

struct Asked : UpRouter {
    // The sample of the newest frame's only item.
    wire::Sample sample() const {
        const SentFrame sent = frame(frames() - 1);
        REQUIRE(sent.frame.items.size() == 1);
        const wire::Item& item = sent.frame.items[0];
        const auto decoded = wire::decode_sample(item.sample, item.outputs.size());
        REQUIRE(decoded.ok());
        return *decoded;
    }
    Counts history() const {
        Counts counts;
        for (const wire::TokenCount& seen : sample().history)
            counts[seen.token] = {seen.prompt, seen.output};
        return counts;
    }
    void answer_next() { answer(result_of(answered++)); }
    std::vector<Ids> masks(size_t count) {
        std::vector<Ids> masks;
        for (size_t i = 0; i < count; ++i) {
            masks.push_back(sample().masked);
            answer_next();
        }
        return masks;
    }
    std::string text() const {
        std::string all;
        for (const wire::Piece& piece : heard<wire::Piece>()) all += piece.text;
        return all;
    }
};

std::string character(uint32_t token) {
    return std::string(size_t{1}, static_cast<char>(32 + token));
}

}  // namespace

TEST_CASE("a request that asks for nothing sends nothing of it") {
    Asked h;
    h.submit("r", 3, 9);
    for (int i = 0; i < 3; ++i) {
        const wire::Sample sample = h.sample();
        CHECK(sample.masked.empty());
        CHECK(sample.logit_bias.empty());
        CHECK(sample.history.empty());
        h.answer_next();
    }
}

TEST_CASE("a repetition penalty looks at prompt and answer") {
    Asked h;
    wire::Parameters p = RouterHarness::ask(3, 9);
    p.repetition_penalty = 1.25f;
    h.say(wire::Submit{"r", p});
    CHECK(h.sample().repetition_penalty == 1.25f);
    CHECK(h.history() == Counts{{5, {3, 0}}});
    h.answer_next();
    h.answer_next();
    CHECK(h.history() == Counts{{5, {3, 0}}, {token_at(2), {0, 1}}, {token_at(3), {0, 1}}});
}

TEST_CASE("presence and frequency penalties look at the answer only") {
    for (const bool presence : {false, true}) {
        CAPTURE(presence);
        Asked h;
        wire::Parameters p = RouterHarness::ask(3, 9);
        (presence ? p.presence_penalty : p.frequency_penalty) = -0.5f;
        h.say(wire::Submit{"r", p});
        CHECK(h.sample().history.empty());
        h.answer_next();
        CHECK(h.history() == Counts{{token_at(2), {0, 1}}});
        CHECK(h.sample().presence_penalty == (presence ? -0.5f : 0.0f));
        CHECK(h.sample().frequency_penalty == (presence ? 0.0f : -0.5f));
    }
}

TEST_CASE("a resumed answer counts the tokens that it brings") {
    Asked h;
    wire::Resume resume{"r", 1, RouterHarness::ask(1, 9), {}};
    resume.parameters.repetition_penalty = 2.0f;
    resume.progress = {{4}, {{7, 4, 7}}, 9, "000000000000002a"};
    h.say(resume);
    CHECK(h.history() == Counts{{4, {1, 1}}, {7, {0, 2}}});
}

TEST_CASE("rows that only want a given token's log-probability carry none of it") {
    Asked h;
    wire::Parameters p = RouterHarness::ask(150, 9);  // two frames
    p.repetition_penalty = 2.0f;
    p.logit_bias = {{3, 1.0f}};
    p.ignore_eos = true;
    p.prompt_logprobs = 0;
    h.say(wire::Submit{"r", p});
    REQUIRE(h.frames() == 2);
    CHECK(h.sample().masked == Ids{0});
    CHECK(h.sample().logit_bias == p.logit_bias);
    CHECK(h.history() == Counts{{5, {150, 0}}});
    const wire::Item first = h.frame(0).frame.items[0];
    const auto sample = wire::decode_sample(first.sample, first.outputs.size());
    REQUIRE(sample.ok());
    CHECK(sample->masked.empty());
    CHECK(sample->logit_bias.empty());
    CHECK(sample->history.empty());
}

TEST_CASE("min_tokens masks whatever would end the answer, until it is reached") {
    Asked h;
    wire::Parameters p = RouterHarness::ask(3, 9);
    p.min_tokens = 2;
    p.stop_token_ids = {8, 9};
    h.say(wire::Submit{"r", p});
    CHECK(h.masks(3) == std::vector<Ids>{{0, 8, 9}, {0, 8, 9}, {}});
    h.say(wire::Cancel{"r"});
    h.answer_all();
    p.ignore_eos = true;
    h.say(wire::Submit{"r", p});
    CHECK(h.masks(3) == std::vector<Ids>{{0, 8, 9}, {0, 8, 9}, {0}});
}

TEST_CASE("before min_tokens no stop string ends the answer, and none is held back") {
    Asked h;
    wire::Parameters p = RouterHarness::ask(3, 9);
    const std::string text = character(token_at(2)) + character(token_at(3)) +
                             character(token_at(4)) + character(token_at(5));
    p.stop = {text.substr(0, 1), text.substr(2, 2)};
    p.min_tokens = 3;
    h.say(wire::Submit{"r", p});
    h.answer_next();
    CHECK(h.text() == text.substr(0, 1));
    h.answer_all();
    REQUIRE(h.heard<wire::Done>().size() == 1);
    CHECK(std::get<std::string>(h.heard<wire::Done>()[0].stop) == text.substr(2, 2));
    CHECK(h.text() == text.substr(0, 2));
    CHECK(h.heard<wire::Done>()[0].completion_tokens == 4);

    wire::Resume resume{"again", 1, p, {}};  // the same rule for the tokens that it brings
    resume.progress = {Ids(3, 5), {{token_at(2), token_at(3), token_at(4)}}, 9,
                       "000000000000002a"};
    h.say(resume);
    h.answer_all();
    REQUIRE(h.heard<wire::Done>().size() == 2);
    CHECK(h.heard<wire::Done>()[1].completion_tokens == 4);
}

TEST_CASE("what no sampler could do is refused at once") {
    Asked h;
    wire::Parameters p = RouterHarness::ask(3, 9);
    p.logit_bias = {{5, 1.0f}, {sim::kVocab, 1.0f}};
    h.say(wire::Submit{"bias", p});
    p = RouterHarness::ask(3, 9);
    p.min_tokens = 1;
    for (uint32_t id = 1; id < sim::kVocab; ++id) p.stop_token_ids.push_back(id);
    h.say(wire::Submit{"mask", p});
    CHECK(h.errors() == std::vector<std::string>{"invalid_request", "invalid_request"});
    CHECK(h.heard<wire::Failure>()[0].message.find("96") != std::string::npos);
    CHECK(h.heard<wire::Failure>()[1].message.find("min_tokens") != std::string::npos);
    CHECK(h.frames() == 0);
}

TEST_CASE("penalties look at as many tokens as a frame carries: the answer ends there") {
    RouterHarness h({4, 16u << 20, 4, 2 * kHistoryIdsMax / kBlockRows});
    h.config.cluster.vocab = 1u << 20;
    h.config.context_length = 4 * kHistoryIdsMax;
    h.remake();
    h.bring_up();
    wire::Parameters p = RouterHarness::ask(kHistoryIdsMax - 2, UINT32_MAX);
    p.repetition_penalty = 1.5f;
    h.say(wire::Submit{"cut", p});
    h.answer_all();
    const std::vector<wire::Done> done = h.heard<wire::Done>();
    REQUIRE(done.size() == 1);
    CHECK(done[0].finish_reason == "length");
    CHECK(done[0].completion_tokens == 2);
    p = RouterHarness::ask(kHistoryIdsMax, 1);
    p.presence_penalty = 1.0f;  // looks at the answer alone
    h.say(wire::Submit{"answer alone", p});
    CHECK(h.errors().empty());
    p.repetition_penalty = 1.5f;
    h.say(wire::Submit{"no room", p});
    REQUIRE(h.errors() == std::vector<std::string>{"invalid_request"});
    CHECK(h.heard<wire::Failure>()[0].request_id == "no room");
}

TEST_CASE("a frame takes as many samples as its bound allows, the others go with the next") {
    RouterHarness h({4, 64u << 20, 128, 256});
    h.config.cluster.vocab = 1u << 20;
    h.config.max_batch_size = 128;
    h.remake();
    h.bring_up();
    wire::Parameters p = RouterHarness::ask(2, 6);
    for (uint32_t i = 0; i < kLogitBiasMax; ++i) p.logit_bias.push_back({100'000 + i, 1.0f});
    for (uint32_t i = 0; i < 128; ++i) h.say(wire::Submit{std::to_string(i), p});
    h.answer_all();
    CHECK(h.heard<wire::Done>().size() == 128);
    CHECK(h.errors().empty());
    size_t most = 0;
    for (size_t i = 0; i < h.frames(); ++i) {
        const SentFrame sent = h.frame(i);
        size_t bytes = 0;
        for (const wire::Item& item : sent.frame.items) bytes += item.sample.size();
        CHECK(bytes <= kFrameItemBytesMax);
        most = std::max(most, bytes);
    }
    CHECK(most > kFrameItemBytesMax / 2);
}
