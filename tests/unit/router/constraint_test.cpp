// Constrained answers: what the sampler is told that it may choose from, and how they end.
#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"
#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;
using chatloop::sim::fake_allowed;

namespace {

using Ids = std::vector<uint32_t>;
constexpr char kFingerprint[] = "000000000000002a";

Ids ids_of(const std::string& bits) {
    Ids ids;
    for (uint32_t id = 0; id < 8 * bits.size(); ++id)
        if (static_cast<uint8_t>(bits[id / 8]) >> id % 8 & 1) ids.push_back(id);
    return ids;
}

bool may_come(const AllowedTokens& next) { return !ids_of(next.bits).empty(); }

wire::Parameters constrained(const std::string& text, uint32_t max_tokens) {
    wire::Parameters p = RouterHarness::ask(3, max_tokens);
    p.constraint = Constraint{ConstraintKind::kRegex, {text}};
    return p;
}

// The first constraint of the fake whose answer of lowest ids is as `wanted` says.
template <class Wanted>
std::string constraint_where(Wanted wanted) {
    for (int i = 0;; ++i) {
        REQUIRE(i < 10'000);
        if (wanted(std::to_string(i))) return std::to_string(i);
    }
}

struct Constrained : UpRouter {
    Ids allowed() const {
        const SentFrame sent = frame(frames() - 1);
        REQUIRE(sent.frame.items.size() == 1);
        const wire::Item& item = sent.frame.items[0];
        const auto sample = wire::decode_sample(item.sample, item.outputs.size());
        REQUIRE(sample.ok());
        REQUIRE(sample->allowed.has_value());
        return ids_of(*sample->allowed);
    }
    void answer_with(uint32_t token) {
        wire::ResultFrame result = result_of(answered++);
        result.items[0].outputs[0].token = token;
        answer(result);
    }
    std::string reason() const {
        const auto done = heard<wire::Done>();
        return done.size() == 1 ? done[0].finish_reason : "none, or more than one";
    }
};

// What the fake allows, with the stop id 0 and these where it may end.
Ids expected(const std::string& text, const Ids& tokens, const Ids& stops) {
    const AllowedTokens next = fake_allowed(text, tokens);
    Ids ids = ids_of(next.bits);
    for (const uint32_t stop : stops) std::erase(ids, stop);
    if (next.may_end) ids.insert(ids.end(), stops.begin(), stops.end());
    std::sort(ids.begin(), ids.end());
    return ids;
}

}  // namespace

TEST_CASE("each row says what may come; stop ids exactly where the answer may end") {
    const std::string text = constraint_where([](const std::string& candidate) {
        bool ends = false, goes_on = true;
        Ids tokens;
        for (int i = 0; i < 6; ++i) {
            const AllowedTokens next = fake_allowed(candidate, tokens);
            goes_on = goes_on && may_come(next);
            ends = ends || next.may_end;
            tokens.push_back(1);
        }
        return ends && goes_on;
    });
    Constrained h;
    wire::Parameters p = constrained(text, 6);
    p.stop_token_ids = {3, 90};
    h.say(wire::Submit{"r", p});
    Ids tokens;
    for (int i = 0; i < 6; ++i) {
        CHECK(h.allowed() == expected(text, tokens, {0, 3, 90}));
        h.answer_with(1);
        tokens.push_back(1);
    }
    CHECK(h.tokens("r") == tokens);
    CHECK(h.heard<wire::Done>().size() == 1);
}

TEST_CASE("where nothing may come the answer ends with stop, also as its last token comes") {
    const std::string text = constraint_where([](const std::string& candidate) {
        return may_come(fake_allowed(candidate, {})) && may_come(fake_allowed(candidate, {1})) &&
               !may_come(fake_allowed(candidate, {1, 1}));
    });
    for (const uint32_t max_tokens : {2u, 9u}) {
        Constrained h;
        wire::Parameters p = constrained(text, max_tokens);
        p.min_tokens = max_tokens;  // cannot be had
        h.say(wire::Submit{"r", p});
        h.answer_with(1);
        CHECK(h.heard<wire::Done>().empty());
        h.answer_with(1);
        CHECK(h.reason() == "stop");
        CHECK(h.tokens("r") == Ids{1, 1});
    }
    Constrained cut;
    cut.say(wire::Submit{"r", constrained(text, 1)});
    cut.answer_with(1);
    CHECK(cut.reason() == "length");
}

TEST_CASE("min_tokens and ignore_eos keep stop ids away") {
    const std::string text = constraint_where([](const std::string& candidate) {
        const AllowedTokens next = fake_allowed(candidate, {});
        return may_come(next) && next.may_end;
    });
    for (const bool ignore_eos : {false, true}) {
        Constrained h;
        wire::Parameters p = constrained(text, 9);
        p.min_tokens = ignore_eos ? 0 : 1;
        p.ignore_eos = ignore_eos;
        h.say(wire::Submit{"r", p});
        Ids ids = ids_of(fake_allowed(text, {}).bits);
        std::erase(ids, 0u);
        CHECK(h.allowed() == ids);
    }
}

TEST_CASE("a resumed answer goes on where its tokens lead") {
    const std::string text = constraint_where([](const std::string& candidate) {
        return may_come(fake_allowed(candidate, {})) && may_come(fake_allowed(candidate, {1})) &&
               may_come(fake_allowed(candidate, {1, 2})) &&
               !may_come(fake_allowed(candidate, {1, 2, 3}));
    });
    wire::Resume resume{"r", 1, constrained(text, 9), {}};
    resume.progress = {{4}, {{1, 2}}, 9, kFingerprint};
    Constrained h;
    h.say(resume);
    CHECK(h.allowed() == expected(text, {1, 2}, {0}));

    Constrained ended;
    resume.progress.choices = {{1, 2, 3}};
    ended.say(resume);
    CHECK(ended.frames() == 0);
    CHECK(ended.reason() == "stop");

    Constrained other;
    resume.progress.choices = {{1, 95}};
    resume.parameters.constraint->texts[0] = constraint_where([](const std::string& candidate) {
        const Ids next = ids_of(fake_allowed(candidate, {1}).bits);
        return may_come(fake_allowed(candidate, {})) &&
               std::find(next.begin(), next.end(), 95u) == next.end();
    });
    other.say(resume);
    CHECK(other.errors() == std::vector<std::string>{"invalid_request"});
}

TEST_CASE("each choice has a matcher of its own") {
    const std::string text = constraint_where([](const std::string& candidate) {
        return may_come(fake_allowed(candidate, {})) && may_come(fake_allowed(candidate, {1})) &&
               may_come(fake_allowed(candidate, {2}));
    });
    Constrained h;
    wire::Parameters p = constrained(text, 2);
    p.n = 2;
    h.say(wire::Submit{"r", p});
    h.answer_with(1);
    std::vector<Ids> seen;
    for (size_t i = 1; i < h.frames(); ++i) {
        const SentFrame sent = h.frame(i);
        for (const wire::Item& item : sent.frame.items) {
            if (item.outputs.empty()) continue;
            const auto sample = wire::decode_sample(item.sample, item.outputs.size());
            REQUIRE((sample.ok() && sample->allowed));
            seen.push_back(ids_of(*sample->allowed));
        }
    }
    std::vector<Ids> both = {expected(text, {1}, {0}), expected(text, {}, {0})};
    std::sort(seen.begin(), seen.end());
    std::sort(both.begin(), both.end());
    CHECK(seen == both);
}

TEST_CASE("the constraints of all requests together have a bound") {
    Constrained h;
    const std::string longest(kConstraintBytesMax, 'x');
    constexpr size_t kFit = kConstraintsBytesMax / kConstraintBytesMax;
    for (size_t i = 0; i < kFit; ++i)
        h.say(wire::Submit{std::to_string(i), constrained(longest, 9)});
    CHECK(h.errors().empty());
    h.say(wire::Submit{"one more", constrained("1", 9)});
    CHECK(h.errors() == std::vector<std::string>{"queue_full"});
    h.submit("without", 3, 9);
    CHECK(h.errors().size() == 1);
    h.say(wire::Cancel{"5"});
    h.say(wire::Submit{"in its place", constrained(longest, 9)});
    CHECK(h.errors().size() == 1);
}

TEST_CASE("a constraint that is refused is the client's error") {
    Constrained h;
    h.say(wire::Submit{"r", constrained("refused", 9)});
    CHECK(h.errors() == std::vector<std::string>{"invalid_request"});
    CHECK(h.frames() == 0);
    CHECK(h.heard<wire::Accepted>().empty());
}

TEST_CASE("a sampler that answers what was not allowed is found out") {
    const std::string text = constraint_where([](const std::string& candidate) {
        const Ids next = ids_of(fake_allowed(candidate, {}).bits);
        return !next.empty() && std::find(next.begin(), next.end(), 95u) == next.end();
    });
    Constrained h;
    h.say(wire::Submit{"r", constrained(text, 9)});
    h.answer_with(95);
    CHECK(h.errors() == std::vector<std::string>{"internal"});
}
