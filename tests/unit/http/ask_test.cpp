#include "chatloop/http/ask.hpp"

#include <doctest/doctest.h>

using namespace chatloop;
using namespace chatloop::http;

namespace {

Ask asked(const AskOrProblem& result) {
    if (const auto* problem = std::get_if<Problem>(&result)) FAIL(problem->message);
    return std::get<Ask>(result);
}

std::string wrong(const AskOrProblem& result) {
    REQUIRE(std::holds_alternative<Problem>(result));
    CHECK(std::get<Problem>(result).status == 400);
    return std::get<Problem>(result).param;
}

Json chat(const std::string& more) {
    return Json::parse(R"({"messages": [{"role": "user", "content": "Hi"}])" + more + "}");
}

std::vector<wire::Message> messages_of(const Ask& ask) {
    return std::get<std::vector<wire::Message>>(ask.prompts.at(0));
}

}  // namespace

TEST_CASE("the defaults are OpenAI's, those of /execute are the router's") {
    const Ask of_chat = asked(read_chat(chat("")));
    CHECK(of_chat.parameters.temperature == 1.0f);
    CHECK(of_chat.parameters.max_tokens == UINT32_MAX);
    CHECK_FALSE(of_chat.stream);
    CHECK_FALSE(of_chat.parameters.logprobs);
    const Ask text = asked(read_completion(Json::parse(R"({"prompt": "a"})")));
    CHECK(text.parameters.max_tokens == 16);
    CHECK(text.parameters.temperature == 1.0f);
    const Ask execute = asked(read_execute(Json::parse(R"({"prompt": "a"})")));
    CHECK(execute.parameters.temperature == 0.0f);
    CHECK(execute.parameters.max_tokens == 256);
}

TEST_CASE("every parameter arrives") {
    const Ask ask = asked(read_chat(chat(R"(, "model": "m", "stream": true,
        "stream_options": {"include_usage": true}, "max_tokens": 5, "max_completion_tokens": 7,
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "typical_p": 0.8,
        "repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": -0.3,
        "logit_bias": {"5": -100, "3": 1.5}, "seed": -1, "n": 2, "stop": ["a", "b"],
        "stop_token_ids": [7], "ignore_eos": true, "priority": -3, "deadline_ms": 9,
        "logprobs": true, "top_logprobs": 4, "min_tokens": 1, "user": "x", "anything": [1])")));
    const wire::Parameters& p = ask.parameters;
    CHECK(ask.stream);
    CHECK(ask.include_usage);
    CHECK(p.model == "m");
    CHECK(p.max_tokens == 7);
    CHECK(p.temperature == 0.5f);
    CHECK(p.top_p == 0.9f);
    CHECK(p.top_k == 40);
    CHECK(p.min_p == 0.1f);
    CHECK(p.typical_p == 0.8f);
    CHECK(p.repetition_penalty == 1.1f);
    CHECK(p.presence_penalty == 0.2f);
    CHECK(p.frequency_penalty == -0.3f);
    CHECK(p.logit_bias == std::vector<wire::LogitBias>{{3, 1.5f}, {5, -100.0f}});
    CHECK(p.seed == UINT64_MAX);
    CHECK(p.n == 2);
    CHECK(p.stop == std::vector<std::string>{"a", "b"});
    CHECK(p.stop_token_ids == std::vector<uint32_t>{7});
    CHECK(p.ignore_eos);
    CHECK(p.priority == -3);
    CHECK(p.deadline_ms == 9u);
    CHECK(p.logprobs == 4u);
    CHECK(p.min_tokens == 1);
}

TEST_CASE("null is absent everywhere") {
    for (const char* name :
         {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
          "top_p", "top_k", "stop", "seed", "n", "logit_bias", "logprobs", "top_logprobs", "tools",
          "tool_choice", "response_format", "presence_penalty", "frequency_penalty", "user"}) {
        CAPTURE(name);
        const Ask ask = asked(read_chat(chat(std::string(", \"") + name + "\": null")));
        CHECK(ask.parameters == asked(read_chat(chat(""))).parameters);
    }
}

TEST_CASE("contents are texts, nothing, or parts") {
    const Json body = Json::parse(R"({"messages": [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "one"},
                                     {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
            "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "name": "f", "content": "42"}]})");
    const std::vector<wire::Message> messages = messages_of(asked(read_chat(body)));
    CHECK(messages.at(0).role == "developer");
    CHECK(messages.at(1).content == "one\ntwo");
    CHECK_FALSE(messages.at(2).has_content);
    CHECK(Json::parse(messages.at(2).tool_calls).at(0).at("function").at("name") == "f");
    CHECK(messages.at(3).tool_call_id == "c");
}

TEST_CASE("prompts are a text, ids, or an array of these") {
    const auto prompts = [](const char* json) {
        return asked(read_completion(Json::parse(std::string(R"({"prompt": )") + json + "}")))
            .prompts;
    };
    CHECK(prompts(R"("a")") == std::vector<Prompt>{Prompt("a")});
    CHECK(prompts("[1, 2]") == std::vector<Prompt>{Prompt(std::vector<uint32_t>{1, 2})});
    CHECK(prompts(R"(["a", [3]])") ==
          std::vector<Prompt>{Prompt("a"), Prompt(std::vector<uint32_t>{3})});
    const Ask echo = asked(read_completion(
        Json::parse(R"({"prompt": [[1]], "echo": true, "logprobs": 2, "max_tokens": 0})")));
    CHECK(echo.parameters.echo);
    CHECK(echo.parameters.prompt_logprobs == 2u);
}

TEST_CASE("constraints and tools") {
    const Ask object = asked(read_chat(chat(R"(, "response_format": {"type": "json_object"})")));
    CHECK(object.parameters.constraint->kind == ConstraintKind::kJsonObject);
    const Ask schema = asked(read_chat(chat(R"(, "response_format": {"type": "json_schema",
        "json_schema": {"name": "x", "strict": true, "schema": {"type": "object", "a": 1}}})")));
    CHECK(schema.parameters.constraint->texts ==
          std::vector<std::string>{R"({"type":"object","a":1})"});  // in its order
    CHECK_FALSE(asked(read_chat(chat(R"(, "response_format": {"type": "text"})")))
                    .parameters.constraint);
    CHECK(wrong(read_chat(chat(R"(, "regex": "a", "choice": ["b"])"))) == "choice");
    const std::string tools =
        R"(, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}])";
    CHECK_FALSE(asked(read_chat(chat(tools))).parameters.tools.empty());
    CHECK(asked(read_chat(chat(tools + R"(, "tool_choice": "none")"))).parameters.tools.empty());
    CHECK(asked(read_chat(chat(tools + R"(, "tool_choice": "required")"))).tool_required);
    const Ask named = asked(read_chat(chat(
        tools + R"(, "tool_choice": {"type": "function", "function": {"name": "f"}})")));
    CHECK(named.tool_required);
    CHECK(named.called_tool == "f");
    CHECK(wrong(read_chat(chat(R"(, "tool_choice": "required")"))) == "tool_choice");
    CHECK(wrong(read_chat(chat(tools + R"(, "tool_choice": "some")"))) == "tool_choice");
}

TEST_CASE("what is wrong is named") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {R"("top_logprobs": 2)", "top_logprobs"}, {R"("n": 0)", "n"},
        {R"("stop": [""])", "stop"}, {R"("logit_bias": {"x": 1})", "logit_bias"},
        {R"("logit_bias": {"01": 1, "1": 2})", "logit_bias"},
        {R"("min_tokens": 5, "max_tokens": 4)", "min_tokens"},
        {R"("stream_options": {"include_usage": 1})", "stream_options.include_usage"},
        {R"("functions": [])", "functions"},
    };
    for (const auto& [field, param] : cases) {
        CAPTURE(field);
        CHECK(wrong(read_chat(chat(", " + field))) == param);
    }
    CHECK(wrong(read_execute(Json::parse(R"({"prompt": "a", "messages": []})"))) == "prompt");
    CHECK(wrong(read_execute(Json::parse(R"({"prompt": ["a"]})"))) == "prompt");
    CHECK(wrong(read_completion(Json::parse(R"({"prompt": "a", "max_tokens": 0})"))) ==
          "max_tokens");
}
