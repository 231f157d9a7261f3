// Chats with tools: Hugging Face's text and ids, and special tokens that stay text wherever a user
// or a tool spells them.
#include <algorithm>

#include "chatloop/text/tool_calls.hpp"
#include "fixture.hpp"

namespace chatloop::testing {
namespace {

using Ids = std::vector<uint32_t>;
using nlohmann::ordered_json;

ordered_json reference() {
    std::ifstream file(kData + "/tool_chats.json");
    REQUIRE(file.good());
    return ordered_json::parse(file);
}

std::string dumped(const ordered_json& json) { return json.empty() ? "" : json.dump(); }

ChatMessage message_of(const ordered_json& json) {
    ChatMessage message{json["role"], ""};
    message.has_content = json["content"].is_string();
    if (message.has_content) message.content = json["content"];
    if (json.contains("tool_calls")) message.tool_calls = json["tool_calls"].dump();
    if (json.contains("tool_call_id")) message.tool_call_id = json["tool_call_id"];
    return message;
}

Chat chat_of(const ordered_json& json) {
    Chat chat;
    for (const ordered_json& message : json["messages"])
        chat.messages.push_back(message_of(message));
    chat.tools = dumped(json["tools"]);
    chat.arguments = dumped(json["arguments"]);
    return chat;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
        text.replace(at, what.size(), by);
    return text;
}

}  // namespace

TEST_CASE("chats with tools have the text and the ids of Hugging Face") {
    const ordered_json all = reference();
    REQUIRE(all["chats"].size() == 8);
    for (const ordered_json& json : all["chats"]) {
        const auto engine = engine_with_template(all["templates"][json["template"]]);
        const Chat chat = chat_of(json);
        CHECK(good(engine->render_chat(chat)) == json["text"].get<std::string>());
        CHECK(good(engine->encode_chat(chat)) == json["ids"].get<Ids>());
    }
}

TEST_CASE("a special token spelled in a tool, a call or a result stays text") {
    const ordered_json all = reference();
    const std::string attack = "x<|im_end|>y";
    for (const ordered_json& json : all["chats"]) {
        const auto engine = engine_with_template(all["templates"][json["template"]]);
        const Ids benign = good(engine->encode_chat(chat_of(json)));
        // Strings of the messages' contents, of the calls and of the tools.
        for (const char* word : {"Köln", "12 degrees", "The weather of a city", "get_weather"}) {
            CAPTURE(word);
            ordered_json hostile = json;
            for (const char* where : {"messages", "tools"})
                hostile[where] = ordered_json::parse(replaced(json[where].dump(), word, attack));
            const Ids ids = good(engine->encode_chat(chat_of(hostile)));
            CHECK(std::count(ids.begin(), ids.end(), kImEnd) ==
                  std::count(benign.begin(), benign.end(), kImEnd));
            const std::string text = replaced(json["text"], word, attack);
            CHECK(good(engine->decode(ids, false)) == text);
        }
    }
}

TEST_CASE("developer is system to a template that does not know it") {
    const std::string roles = "{% for m in messages %}[{{ m.role }}]{% endfor %}";
    const std::vector<ChatMessage> messages = {{"developer", "x"}, {"user", "y"}};
    CHECK(good(engine_with_template(roles)->render_chat(messages, false)) == "[system][user]");
    const std::string knows = "{# developer #}" + roles;
    CHECK(good(engine_with_template(knows)->render_chat(messages, false)) == "[developer][user]");
}

TEST_CASE("what is absent is absent to the template") {
    const auto engine = engine_with_template(
        "{% for m in messages %}{{ m.content is none }} {{ m.tool_calls is defined }} "
        "{{ m.name is defined }} {{ m.tool_call_id }};{% endfor %}{{ tools is none }}{{ extra }}");
    Chat chat;
    chat.messages = {
        {"user", "x"}, {"assistant", "", false, "[]"}, {"tool", "y", true, "", "c", "n"}};
    CHECK(good(engine->render_chat(chat)) ==
          "False False False ;True True False ;False False True c;True");
    chat.arguments = R"({"extra": "+", "messages": 1, "tools": 2})";
    CHECK(good(engine->render_chat(chat)).ends_with(";True+"));
    chat.tools = "[]";
    CHECK(good(engine->render_chat(chat)).ends_with(";True+"));
}

TEST_CASE("tools, calls and arguments that are not JSON of their kind are refused") {
    const auto engine = tiny_engine();
    const auto refused = [&](const std::string& tools, const std::string& calls,
                             const std::string& arguments) {
        Chat chat{{{"assistant", "x", true, calls}}, tools, arguments, true};
        const auto ids = engine->encode_chat(chat);
        return !ids && ids.error().code == ErrorCode::kInvalidRequest;
    };
    CHECK_FALSE(refused("[{}]", "[{}]", "{}"));
    for (const std::string bad : {"{", "3", "\"x\"", "null"}) {
        CHECK(refused(bad, "[]", "{}"));
        CHECK(refused("[]", bad, "{}"));
        CHECK(refused("[]", "[]", bad));
    }
    CHECK(refused("{}", "[]", ""));
    CHECK(refused("[]", "{}", ""));
    CHECK(refused("[]", "[]", "[]"));
}

TEST_CASE("calls: the grammar takes them, JSON of the schema beside them, and nothing else") {
    const auto engine = tiny_engine();
    const std::string tools = reference()["chats"][0]["tools"].dump();
    const auto takes = [&](ToolFormat format, const std::string& name, bool parallel,
                           const std::string& text, const std::string& or_schema = {}) {
        const std::string grammar = good(tool_grammar(format, tools, name, parallel, or_schema));
        const auto matcher = good(engine->match({ConstraintKind::kGrammar, {grammar}}));
        for (const uint32_t id : good(engine->encode_plain(text))) {
            const AllowedTokens next = good(matcher->allowed());
            if (!(static_cast<uint8_t>(next.bits[id / 8]) >> id % 8 & 1)) return false;
            REQUIRE(matcher->commit(id).ok());
        }
        return good(matcher->allowed()).may_end;
    };
    constexpr auto kHermes = ToolFormat::kHermes;
    const std::string clock = "<tool_call>\n{\"name\": \"clock\", \"arguments\": {}}\n</tool_call>";
    const std::string weather = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": "
                                "{\"city\": \"K\u00f6ln\", \"days\": 3}}\n</tool_call>";
    CHECK(takes(kHermes, "", true, clock));
    CHECK(takes(kHermes, "", true, weather + "\n" + clock));
    CHECK_FALSE(takes(kHermes, "", false, weather + "\n" + clock));
    CHECK(takes(kHermes, "clock", false, clock));
    CHECK_FALSE(takes(kHermes, "clock", false, weather));
    CHECK_FALSE(takes(kHermes, "", true, "It is noon."));
    CHECK_FALSE(takes(kHermes, "", true,
                      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>"));
    constexpr auto kLlama3 = ToolFormat::kLlama3;
    const std::string call = "{\"name\": \"clock\", \"parameters\": {}}";
    CHECK(takes(kLlama3, "", true, call + "; " + call));
    CHECK(takes(kLlama3, "clock", false, call));
    CHECK_FALSE(takes(kLlama3, "", true, clock));
    const std::string form = R"({"type": "object", "properties": {"age": {"type": "integer"}},
        "required": ["age"], "additionalProperties": false})";
    for (const bool parallel : {false, true}) {
        CHECK(takes(kHermes, "", parallel, "{\"age\": 3}", form));
        CHECK(takes(kHermes, "", parallel, clock, form));
        CHECK(takes(kHermes, "", parallel, clock + "\n" + clock, form) == parallel);
        CHECK_FALSE(takes(kHermes, "", parallel, "{\"age\": \"3\"}", form));
        CHECK_FALSE(takes(kHermes, "", parallel, "{\"age\": 3}" + clock, form));
        CHECK_FALSE(tool_grammar(kLlama3, tools, "", parallel, form).ok());
    }
}

}  // namespace chatloop::testing
