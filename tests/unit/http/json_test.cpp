#include "chatloop/http/json.hpp"

#include <doctest/doctest.h>

#include "chatloop/core/limits.hpp"

using namespace chatloop;
using namespace chatloop::http;

namespace {

bool parses(const std::string& body) { return std::holds_alternative<Json>(parse_object(body)); }

std::string repeated(const std::string& text, size_t count) {
    std::string all;
    for (size_t i = 0; i < count; ++i) all += text;
    return all;
}

}  // namespace

TEST_CASE("an object is parsed, anything else is refused with a reason") {
    CHECK(parses(R"({"a": [1, {"b": "}]\"{["}]})"));
    for (const char* bad : {"", "{", "[]", "null", "{} {}", "{\"a\":1,}", "{\"a\":\"\xff\"}"}) {
        const auto refused = parse_object(bad);
        REQUIRE(std::holds_alternative<Problem>(refused));
        CHECK(std::get<Problem>(refused).status == 400);
        CHECK(std::get<Problem>(refused).code == "invalid_json");
    }
}

TEST_CASE("bodies that would cost far more than their bytes are refused before they are built") {
    CHECK(parses("{\"a\":" + repeated("[", 60) + repeated("]", 60) + "}"));
    CHECK_FALSE(parses("{\"a\":" + repeated("[", 64) + repeated("]", 64) + "}"));
    CHECK_FALSE(parses(repeated("{\"a\":", 1'000'000)));
    CHECK(parses("{\"a\":[" + repeated("1,", kJsonValuesMax - 10) + "1]}"));
    CHECK_FALSE(parses("{\"a\":[" + repeated("1,", kJsonValuesMax + 1) + "1]}"));
    const auto object = [](size_t members) {
        std::string text = "{";
        for (size_t i = 0; i < members; ++i)
            text += (i > 0 ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
        return text + "}";
    };
    CHECK(parses(object(kJsonMembersMax)));
    CHECK_FALSE(parses(object(kJsonMembersMax + 1)));
    const std::string thousand = object(1000);
    CHECK(parses("{\"a\":[" + repeated(thousand + ",", 30) + "1]}"));
    CHECK_FALSE(parses("{\"a\":[" + repeated(thousand + ",", 40) + "1]}"));
}

TEST_CASE("fields: null is absent, the first mistake is kept with its path") {
    const Json object = Json::parse(
        R"({"n": null, "i": 3, "f": 3.0, "h": 3.5, "s": "text", "b": true,
            "u": 18446744073709551615})");
    std::optional<Problem> problem;
    Fields fields(object, problem, "outer");
    CHECK(fields.find("n") == nullptr);
    CHECK_FALSE(fields.integer("missing", 0, 9));
    CHECK(fields.integer("i", 0, 9) == 3);
    CHECK(fields.integer("f", 0, 9) == 3);  // clients whose numbers are all doubles
    CHECK(fields.number("i", 0, 9) == 3.0);
    CHECK(fields.boolean("b") == true);
    CHECK(fields.text("s", 9) == "text");
    CHECK_FALSE(problem);
    CHECK_FALSE(fields.integer("h", 0, 9));
    REQUIRE(problem);
    CHECK(problem->param == "outer.h");
    CHECK(problem->message == "outer.h is not an integer");
    CHECK_FALSE(fields.boolean("i"));
    CHECK(problem->param == "outer.h");
    const auto mistake = [&](auto read) {
        std::optional<Problem> found;
        Fields again(object, found);
        read(again);
        return found.has_value();
    };
    CHECK(mistake([](Fields& f) { f.integer("u", INT64_MIN, INT64_MAX); }));
    CHECK(mistake([](Fields& f) { f.integer("i", 4, 9); }));
    CHECK(mistake([](Fields& f) { f.integer("b", 0, 9); }));
    CHECK(mistake([](Fields& f) { f.number("s", 0, 9); }));
    CHECK(mistake([](Fields& f) { f.text("i", 9); }));
    CHECK(mistake([](Fields& f) { f.text("s", 3); }));
}

TEST_CASE("the size of a text in JSON, and an object with one more member") {
    for (const std::string& text : {std::string("plain"), std::string("\"\\/\n\r\t\b\f"),
                                   std::string("\x01\x1f\x7f\0", 4), std::string("größe €")})
        CHECK(text_bytes(text) + 2 == to_text(Json(text)).size());
    CHECK(with_member("{}", "a", "[1]") == R"({"a":[1]})");
    CHECK(with_member(R"({"b":2})", "a", "null") == R"({"b":2,"a":null})");
}
