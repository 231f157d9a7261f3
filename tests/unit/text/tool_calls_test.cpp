// Calls are taken out of the text alike, however the text is cut.
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "chatloop/text/tool_calls.hpp"

using namespace chatloop;

namespace {

struct Call {
    std::string name, arguments;
    bool operator==(const Call&) const = default;
};

struct Parsed {
    std::string content;
    std::vector<Call> calls;
    bool operator==(const Parsed&) const = default;
};

doctest::String toString(const Parsed& parsed) {
    std::string text = "\"" + parsed.content + "\"";
    for (const Call& call : parsed.calls) text += " " + call.name + "(" + call.arguments + ")";
    return text.c_str();
}

void gather(const std::vector<ToolEvent>& events, Parsed& parsed) {
    for (const ToolEvent& event : events) {
        if (const auto* content = std::get_if<ToolContent>(&event)) {
            CHECK(!content->text.empty());
            parsed.content += content->text;
        } else if (const auto* begin = std::get_if<ToolCallBegin>(&event)) {
            REQUIRE(begin->index == parsed.calls.size());
            parsed.calls.push_back({begin->name, ""});
        } else {
            const auto& piece = std::get<ToolCallArguments>(event);
            REQUIRE(piece.index + 1 == parsed.calls.size());
            parsed.calls.back().arguments += piece.text;
        }
    }
}

Parsed parse(ToolFormat format, std::string_view text, size_t piece) {
    ToolCallParser parser(format);
    Parsed parsed;
    for (size_t at = 0; at < text.size(); at += piece)
        gather(parser.push(text.substr(at, piece)), parsed);
    gather(parser.finish(), parsed);
    CHECK(parser.calls() == parsed.calls.size());
    return parsed;
}

void check(ToolFormat format, std::string_view text, const Parsed& expected) {
    CAPTURE(text);
    for (size_t piece = 1; piece <= text.size() + 1; ++piece) {
        CAPTURE(piece);
        CHECK(parse(format, text, piece) == expected);
    }
}

constexpr auto kHermes = ToolFormat::kHermes;
constexpr auto kLlama3 = ToolFormat::kLlama3;

}  // namespace

TEST_CASE("Hermes: calls and the text around them, in pieces of any size") {
    const std::string one = "<tool_call>\n{\"name\": \"f\", \"arguments\": "
                            "{\"a\": [1, \"}\\\"{\"]}}\n</tool_call>";
    const Call call = {"f", "{\"a\": [1, \"}\\\"{\"]}"};
    check(kHermes, one, {"", {call}});
    check(kHermes, "Let me look.\n" + one, {"Let me look.", {call}});
    check(kHermes, "\n" + one + "\n" + one, {"", {call, call}});
    check(kHermes, one + "\nDone.", {"\nDone.", {call}});
    check(kHermes, "a < b <tool \n<tool_calls", {"a < b <tool \n<tool_calls", {}});
    check(kHermes, " \n", {" \n", {}});
    check(kHermes, one + " \n", {"", {call}});
    check(kHermes, "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"g\"}</tool_call>",
          {"", {{"g", "{\"x\": 1}"}}});
    check(kHermes, "<tool_call>{\"name\": \"n\\u00e9\"}</tool_call>", {"", {{"n\u00e9", "{}"}}});
    check(kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 2}\"}</tool_call>",
          {"", {{"f", "{\"x\": 2}"}}});
    check(kHermes, "<tool_call>{\"id\": {\"q\": [1]}, \"name\": \"f\", \"arguments\": null}",
          {"", {{"f", "{}"}}});
    check(kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n" + one,
          {"", {{"f", "{}"}, call}});  // a tag that was not closed
}

TEST_CASE("Hermes: what is no call stays text") {
    for (const std::string text :
         {"<tool_call>hello</tool_call>", "<tool_call>", "x <tool_call> {\"name\": 5}",
          "<tool_call>{]", "<tool_call>{\"arguments\": {}}</tool_call>",
          "<tool_call>{\"name\": \"f", "<tool_c"})
        check(kHermes, text, {text, {}});
    // An answer that was cut within arguments has begun a call.
    check(kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b",
          {"", {{"f", "{\"a\": \"b"}}});
}

TEST_CASE("Hermes: a head without end is given up") {
    const std::string text = "<tool_call>{\"x\": \"" + std::string(20'000, 'a') + "\"";
    CHECK(parse(kHermes, text, 100) == Parsed{text, {}});
}

TEST_CASE("arguments leave as they come") {
    ToolCallParser parser(kHermes);
    CHECK(parser.push("<tool_call>{\"name\": \"f\"").empty());
    CHECK(parser.push(", \"arguments\": {\"a") ==
          std::vector<ToolEvent>{ToolCallBegin{0, "f"}, ToolCallArguments{0, "{\"a"}});
    CHECK(parser.push("\": 1") == std::vector<ToolEvent>{ToolCallArguments{0, "\": 1"}});
    CHECK(parser.push("}}\n</tool_call>") == std::vector<ToolEvent>{ToolCallArguments{0, "}"}});
    CHECK(parser.finish().empty());
}

TEST_CASE("Llama 3: the whole answer is calls, or none of it") {
    check(kLlama3, "{\"name\": \"f\", \"parameters\": {\"a\": {\"b\": 1}}}",
          {"", {{"f", "{\"a\": {\"b\": 1}}"}}});
    check(kLlama3, " {\"type\": \"function\", \"name\": \"f\", \"parameters\": {}} ; "
                   "{\"name\": \"g\", \"parameters\": {\"x\": \"};\"}}\n",
          {"", {{"f", "{}"}, {"g", "{\"x\": \"};\"}"}}});
    check(kLlama3, "{\"temperature\": 20}", {"{\"temperature\": 20}", {}});
    check(kLlama3, "I call {\"name\": \"f\", \"parameters\": {}}",
          {"I call {\"name\": \"f\", \"parameters\": {}}", {}});
    check(kLlama3, "  ", {"  ", {}});
}

TEST_CASE("without a format all is content") {
    check(ToolFormat::kNone, "<tool_call>{\"name\": \"f\"}</tool_call>",
          {"<tool_call>{\"name\": \"f\"}</tool_call>", {}});
}

TEST_CASE("the format is seen in the template") {
    CHECK(tool_format("{% if tools %}... <tool_call></tool_call>") == ToolFormat::kHermes);
    CHECK(tool_format("{{ 'Environment: ipython' }}{% for t in tools %}\"parameters\": ") ==
          ToolFormat::kLlama3);
    CHECK(tool_format("{{ messages }}") == ToolFormat::kNone);
    CHECK(tool_format("") == ToolFormat::kNone);
}

TEST_CASE("ids of calls differ, and are a function of the request") {
    const std::string id = tool_call_id(7, 0, 0);
    CHECK(id.size() == 29);
    CHECK(id.substr(0, 5) == "call_");
    CHECK(id == tool_call_id(7, 0, 0));
    CHECK(id != tool_call_id(7, 0, 1));
    CHECK(id != tool_call_id(7, 1, 0));
    CHECK(id != tool_call_id(8, 0, 0));
}

TEST_CASE("a tool_choice that cannot be served is refused") {
    const auto refused = [](ToolFormat format, std::string_view tools, std::string_view name) {
        const Result<std::string> grammar = tool_grammar(format, tools, name, true);
        return !grammar && grammar.error().code == ErrorCode::kInvalidRequest;
    };
    const std::string_view tools = R"([{"type": "function", "function": {"name": "f"}}])";
    CHECK(tool_grammar(kHermes, tools, "f", true).ok());
    CHECK(refused(ToolFormat::kNone, tools, ""));
    CHECK(refused(kHermes, tools, "g"));
    CHECK(refused(kHermes, "[]", ""));
    for (const std::string_view bad : {"", "{}", "[1]", "[{}]", R"([{"function": 1}])",
                                       R"([{"function": {"name": 1}}])",
                                       R"([{"function": {"name": "f", "parameters": 3}}])"})
        CHECK(refused(kHermes, bad, ""));
}
