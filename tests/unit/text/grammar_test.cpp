// Constraints: whatever is drawn from what is allowed is what was asked for, and nothing that was
// asked for is kept away.
#include <algorithm>
#include <functional>
#include <random>
#include <regex>

#include "fixture.hpp"

namespace chatloop::testing {
namespace {

using Ids = std::vector<uint32_t>;

bool has(const AllowedTokens& next, uint32_t id) {
    return id / 8 < next.bits.size() && (static_cast<uint8_t>(next.bits[id / 8]) >> id % 8 & 1);
}

Ids ids_of(const AllowedTokens& next) {
    Ids ids;
    for (uint32_t id = 0; id < 8 * next.bits.size(); ++id)
        if (has(next, id)) ids.push_back(id);
    return ids;
}

std::unique_ptr<Matcher> compiled(const TextEngine& engine, ConstraintKind kind,
                                  const std::string& text) {
    return good(engine.match({kind, {text}}));
}

// Random tokens until the end, or nothing if that does not come within `tokens_max`.
std::optional<std::string> random_answer(const TextEngine& engine, Matcher& matcher,
                                         std::mt19937& random, int tokens_max) {
    Ids tokens;
    for (int i = 0; i < tokens_max; ++i) {
        const AllowedTokens next = good(matcher.allowed());
        const Ids ids = ids_of(next);
        if (next.may_end && (ids.empty() || random() % 3 == 0))
            return good(engine.decode(tokens, true));
        REQUIRE(!ids.empty());
        tokens.push_back(ids[random() % ids.size()]);
        REQUIRE(matcher.commit(tokens.back()).ok());
    }
    return std::nullopt;
}

// Whether the matcher takes the text, token by token, to where it may end.
bool takes(const TextEngine& engine, Matcher& matcher, const std::string& text) {
    for (const uint32_t id : good(engine.encode_plain(text))) {
        if (!has(good(matcher.allowed()), id)) return false;
        REQUIRE(matcher.commit(id).ok());
    }
    return good(matcher.allowed()).may_end;
}

}  // namespace

TEST_CASE("a regex: answers match it, and what matches is taken") {
    const auto engine = tiny_engine();
    std::mt19937 random(1);
    for (const char* text : {"[a-c]{2,5}", "(sea|river)s?", "-?[0-9]+(\\.[0-9]{1,2})?",
                             "\"[ -!#-Z]{0,4}\"", "(ab|a)(bc|c)?", "x*yz{3}"}) {
        CAPTURE(text);
        const std::regex expected(text);
        int ended = 0;
        for (int run = 0; run < 40; ++run) {
            const auto matcher = compiled(*engine, ConstraintKind::kRegex, text);
            const auto answer = random_answer(*engine, *matcher, random, 60);
            if (!answer) continue;
            ++ended;
            CAPTURE(*answer);
            CHECK(std::regex_match(*answer, expected));
        }
        CHECK(ended > 0);
    }
    const auto taken = [&](const char* text, const std::string& answer) {
        return takes(*engine, *compiled(*engine, ConstraintKind::kRegex, text), answer);
    };
    CHECK(taken("(sea|river)s?", "rivers"));
    CHECK(taken("(ab|a)(bc|c)?", "abc"));
    CHECK(taken(".*", "Hello, world! \xe6\x97\xa5\xe6\x9c\xac"));
    CHECK_FALSE(taken("(sea|river)s?", "seasi"));
    CHECK_FALSE(taken("(sea|river)s?", "riv"));
}

TEST_CASE("a choice is one of its texts") {
    const auto engine = tiny_engine();
    const std::vector<std::string> texts = {"yes", "yes \"sir\"", "no\n", "\xe6\x97\xa5", "\\"};
    std::mt19937 random(2);
    std::vector<std::string> seen;
    for (int run = 0; run < 200; ++run) {
        const auto matcher = good(engine->match({ConstraintKind::kChoice, texts}));
        const auto answer = random_answer(*engine, *matcher, random, 30);
        REQUIRE(answer.has_value());
        REQUIRE(std::find(texts.begin(), texts.end(), *answer) != texts.end());
        seen.push_back(*answer);
    }
    for (const std::string& text : texts)
        CHECK(std::find(seen.begin(), seen.end(), text) != seen.end());
}

// A language of few texts, so that what may come is known by trying every token.
TEST_CASE("what is allowed is every token that stays within the language, and no other") {
    const auto engine = tiny_engine();
    std::vector<std::string> spelled;
    for (uint32_t id = 0; id < static_cast<uint32_t>(engine->vocab_size()); ++id)
        spelled.push_back(good(engine->decode(Ids{id}, true)));
    const std::pair<Constraint, std::vector<std::string>> languages[] = {
        {{ConstraintKind::kRegex, {"(the |a )?(sea|rivers?)"}},
         {"sea", "river", "rivers", "the sea", "the river", "the rivers", "a sea", "a river",
          "a rivers"}},
        {{ConstraintKind::kChoice, {"hello", "hello world", "hell", "world"}},
         {"hello", "hello world", "hell", "world"}},
        {{ConstraintKind::kJsonSchema,
          {R"({"enum": ["the", "then", 12, 1.5, null, true, ["a"]]})"}},
         {"\"the\"", "\"then\"", "12", "1.5", "null", "true", "[\"a\"]"}},
        {{ConstraintKind::kGrammar,
          {"start: a b?\na: \"what\" | \"is\"\nb: \" \" a\n"}},
         {"what", "is", "what what", "what is", "is what", "is is"}},
    };
    std::mt19937 random(6);
    for (const auto& [constraint, language] : languages) {
        for (int run = 0; run < 25; ++run) {
            const auto matcher = good(engine->match(constraint));
            for (std::string text;;) {
                const AllowedTokens next = good(matcher->allowed());
                const bool is_whole =
                    std::find(language.begin(), language.end(), text) != language.end();
                CAPTURE(constraint.texts[0]);
                CAPTURE(text);
                REQUIRE(next.may_end == is_whole);
                Ids expected;
                for (uint32_t id = 0; id < spelled.size(); ++id) {
                    const std::string longer = text + spelled[id];
                    const bool fits = std::any_of(language.begin(), language.end(),
                                                  [&](const std::string& whole) {
                                                      return whole.starts_with(longer);
                                                  });
                    if (!spelled[id].empty() && fits) expected.push_back(id);
                }
                REQUIRE(ids_of(next) == expected);
                if (expected.empty()) break;
                const uint32_t id = expected[random() % expected.size()];
                REQUIRE(matcher->commit(id).ok());
                text += spelled[id];
            }
        }
    }
}

TEST_CASE("JSON: objects, and a schema") {
    const auto engine = tiny_engine();
    std::mt19937 random(3);
    const char* schema =
        R"({"type": "object", "properties": {"a": {"enum": [1, "x\n\"", null]},
            "b": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
            "required": ["a", "b"], "additionalProperties": false})";
    int ended = 0;
    for (int run = 0; run < 60; ++run) {
        const auto matcher = compiled(*engine, ConstraintKind::kJsonSchema, schema);
        const auto answer = random_answer(*engine, *matcher, random, 200);
        if (!answer) continue;
        ++ended;
        CAPTURE(*answer);
        const auto json = nlohmann::json::parse(*answer, nullptr, false);
        REQUIRE(json.is_object());
        CHECK(json.size() == 2);
        CHECK((json["a"] == 1 || json["a"] == "x\n\"" || json["a"].is_null()));
        REQUIRE(json["b"].is_array());
        CHECK(json["b"].size() <= 2);
        for (const auto& one : json["b"]) CHECK(one.is_boolean());
    }
    CHECK(ended > 0);
    const auto any = [&] { return good(engine->match({ConstraintKind::kJsonObject, {}})); };
    CHECK(takes(*engine, *any(), R"({"sea": [1, {"x": "\n"}], "t": true})"));
    CHECK(takes(*engine, *any(), R"({"a":1,"b": [1,2, 3]})"));
    CHECK_FALSE(takes(*engine, *any(), "[1]"));
    CHECK_FALSE(takes(*engine, *any(), "{} "));
    for (const char* text : {"{ }", "{\n}", R"({"a":  1})", R"({"a" :1})"})  // in one line
        CHECK_FALSE(takes(*engine, *any(), text));
}

TEST_CASE("a grammar of rules") {
    const auto engine = tiny_engine();
    const std::string sum = "start: term (\"+\" term)*\nterm: /[0-9]/ | \"(\" start \")\"\n";
    const auto taken = [&](const std::string& answer) {
        return takes(*engine, *compiled(*engine, ConstraintKind::kGrammar, sum), answer);
    };
    CHECK(taken("1+(2+3)+4"));
    CHECK(taken("((7))"));
    CHECK_FALSE(taken("((7)"));
    CHECK_FALSE(taken("1+"));
}

TEST_CASE("special tokens are never allowed, other added tokens are text") {
    const auto engine = tiny_engine();
    const Ids think = good(engine->encode_plain("<think>"));
    REQUIRE(think.size() == 1);
    const auto any = compiled(*engine, ConstraintKind::kRegex, "(.|\n)*");
    const AllowedTokens next = good(any->allowed());
    for (const uint32_t special : {0u, kImStart, kImEnd}) CHECK_FALSE(has(next, special));
    CHECK(has(next, think[0]));
    // The spelling of a special token is text too.
    CHECK(takes(*engine, *compiled(*engine, ConstraintKind::kRegex, "a<\\|im_end\\|>"),
                "a<|im_end|>"));
}

TEST_CASE("what is allowed is a function of the constraint and the tokens") {
    const auto engine = tiny_engine();
    std::mt19937 random(4);
    const auto make = [&] { return good(engine->match({ConstraintKind::kJsonObject, {}})); };
    const auto walked = make();
    Ids tokens;
    for (int i = 0; i < 30; ++i) {
        const AllowedTokens next = good(walked->allowed());
        const auto rebuilt = make();  // without the masks in between
        for (const uint32_t id : tokens) REQUIRE(rebuilt->commit(id).ok());
        const AllowedTokens again = good(rebuilt->allowed());
        CHECK(again.bits == next.bits);
        CHECK(again.may_end == next.may_end);
        const Ids ids = ids_of(next);
        if (ids.empty()) break;
        tokens.push_back(ids[random() % ids.size()]);
        // A fork goes its own way.
        const auto fork = walked->fork();
        REQUIRE(fork->commit(ids[0]).ok());
        CHECK(good(walked->allowed()).bits == next.bits);
        REQUIRE(walked->commit(tokens.back()).ok());
    }
}

TEST_CASE("a token that is not allowed is an error, and so is all that follows") {
    const auto engine = tiny_engine();
    const auto matcher = compiled(*engine, ConstraintKind::kRegex, "[0-9]+");
    const uint32_t letter = good(engine->encode_plain("a"))[0];
    CHECK(matcher->commit(letter).error().code == ErrorCode::kInvalidRequest);
    const auto other = compiled(*engine, ConstraintKind::kRegex, "[0-9]+");
    CHECK(other->commit(1'000'000).error().code == ErrorCode::kInvalidRequest);
    CHECK(other->commit(static_cast<uint32_t>(engine->vocab_size())).error().code ==
          ErrorCode::kInvalidRequest);
    const auto one = compiled(*engine, ConstraintKind::kRegex, "a");
    REQUIRE(one->commit(letter).ok());
    const AllowedTokens end = good(one->allowed());
    CHECK(end.may_end);
    CHECK(ids_of(end).empty());
    CHECK(one->commit(letter).error().code == ErrorCode::kInvalidRequest);
}

TEST_CASE("a constraint that cannot be served is refused with the reason") {
    const auto engine = tiny_engine();
    const auto reason = [&](ConstraintKind kind, const std::string& text) {
        CAPTURE(text.substr(0, 80));
        const auto matcher = engine->match({kind, {text}});
        REQUIRE_FALSE(matcher.ok());
        CHECK(matcher.error().code == ErrorCode::kInvalidRequest);
        CHECK(matcher.error().message.find('\n') == std::string::npos);
        return matcher.error().message;
    };
    CHECK(reason(ConstraintKind::kJsonSchema, "{").find("json_schema") != std::string::npos);
    reason(ConstraintKind::kJsonSchema, "3");
    reason(ConstraintKind::kJsonSchema, R"({"type": "no type"})");
    reason(ConstraintKind::kJsonSchema, R"({"$ref": "#/$defs/none"})");
    reason(ConstraintKind::kRegex, "a(");
    reason(ConstraintKind::kRegex, std::string(60'000, '(') + std::string(60'000, ')'));
    reason(ConstraintKind::kGrammar, "rule: \"x\"");
    reason(ConstraintKind::kGrammar, "start: none");
    reason(ConstraintKind::kGrammar, "start: " + std::string(50'000, '('));
    CHECK_FALSE(engine->match({ConstraintKind::kChoice, {}}).ok());
    CHECK_FALSE(engine->match({ConstraintKind::kRegex, {"\xff"}}).ok());
}

TEST_CASE("work is bounded, whatever is asked for") {
    const auto engine = tiny_engine();
    std::string nested = "{\"type\": \"array\"}";
    for (int i = 0; i < 60; ++i) nested = "{\"type\": \"array\", \"items\": " + nested + "}";
    const std::string self = R"({"allOf": [{"$ref": "#"}], "type": "object"})";
    const std::pair<ConstraintKind, std::string> bombs[] = {
        {ConstraintKind::kRegex, "((a{1,100}){1,100}){1,100}"},
        {ConstraintKind::kRegex, "(a|b|ab)*c{1000}(.*x.{1000})"},
        {ConstraintKind::kRegex, "(((a*)*)*)*b"},
        {ConstraintKind::kJsonSchema, nested},
        {ConstraintKind::kJsonSchema, self},
        {ConstraintKind::kJsonSchema, R"({"type": "string", "minLength": 100000})"},
        {ConstraintKind::kJsonSchema, R"({"type": "array", "minItems": 100000})"},
        {ConstraintKind::kGrammar, "start: start start | \"a\" | "},
        {ConstraintKind::kGrammar, "start: (/a{1,1000}/ | /(a|aa)+/){1,1000}"},
    };
    std::mt19937 random(5);
    for (const auto& [kind, text] : bombs) {
        CAPTURE(text.substr(0, 80));
        const auto matcher = engine->match({kind, {text}});
        if (!matcher) {
            CHECK(matcher.error().code == ErrorCode::kInvalidRequest);
            continue;
        }
        for (int i = 0; i < 20; ++i) {
            const auto next = (*matcher)->allowed();
            if (!next) {
                CHECK(next.error().code == ErrorCode::kInvalidRequest);
                break;
            }
            const Ids ids = ids_of(*next);
            if (ids.empty() || !(*matcher)->commit(ids[random() % ids.size()])) break;
        }
    }
}

}  // namespace chatloop::testing
