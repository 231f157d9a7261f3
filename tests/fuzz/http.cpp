// What comes over HTTP, and what a model writes to call a tool. The first byte says which: a body
// of an endpoint becomes a request that the wire carries, or a problem that names the mistake; the
// calls in a text do not depend on the pieces in which it comes.
#include <algorithm>
#include <string>

#include "chatloop/core/assert.hpp"
#include "chatloop/http/ask.hpp"
#include "chatloop/text/tool_calls.hpp"
#include "chatloop/wire/codec.hpp"
#include "target.hpp"

namespace chatloop::fuzz {

namespace {

constexpr uint8_t kKinds = 5;

Bytes seed(uint8_t kind, std::string_view text) {
    return bytes_of(std::string(1, static_cast<char>(kind)).append(text));
}

void check_ask(uint8_t kind, std::string_view text) {
    const auto body = http::parse_object(text);
    if (const auto* problem = std::get_if<http::Problem>(&body)) {
        CL_ASSERT(problem->status == 400 && !problem->message.empty());
        CL_ASSERT(!http::problem_json(*problem).empty());
        return;
    }
    const http::Json& json = std::get<http::Json>(body);
    CL_ASSERT(!http::to_text(json).empty());
    const auto read = kind == 0   ? http::read_chat(json)
                      : kind == 1 ? http::read_completion(json)
                                  : http::read_execute(json);
    if (const auto* problem = std::get_if<http::Problem>(&read)) {
        CL_ASSERT(problem->status >= 400 && problem->status < 500 && !problem->message.empty());
        return;
    }
    const http::Ask& ask = std::get<http::Ask>(read);
    CL_ASSERT(!ask.prompts.empty());
    wire::Submit submit{"r", ask.parameters};
    submit.parameters.prompt = ask.prompts[0];
    const wire::Bytes sent = wire::encode_client(submit);
    const auto heard = wire::decode_client(sent);
    if (const auto* error = std::get_if<wire::ClientError>(&heard)) {
        CL_ASSERT(error->error.code != ErrorCode::kMalformed && error->request_id == "r");
    }
}

// Contents one after the other, and each call with its arguments.
std::string told(const std::vector<ToolEvent>& events) {
    std::string all;
    for (const ToolEvent& event : events) {
        if (const auto* content = std::get_if<ToolContent>(&event)) all += content->text;
        if (const auto* begin = std::get_if<ToolCallBegin>(&event))
            all += "\x01" + std::to_string(begin->index) + " " + begin->name + "\x02";
        if (const auto* piece = std::get_if<ToolCallArguments>(&event)) all += piece->text;
    }
    return all;
}

std::string told_in_pieces(ToolFormat format, std::string_view text, size_t piece) {
    ToolCallParser parser(format);
    std::vector<ToolEvent> all;
    const auto add = [&all](std::vector<ToolEvent> events) {
        all.insert(all.end(), events.begin(), events.end());
    };
    for (size_t at = 0; at < text.size(); at += piece) add(parser.push(text.substr(at, piece)));
    add(parser.finish());
    return told(all);
}

void check_calls(ToolFormat format, std::string_view text) {
    const std::string whole = told_in_pieces(format, text, std::max<size_t>(text.size(), 1));
    CL_ASSERT(told_in_pieces(format, text, 1) == whole);
    CL_ASSERT(told_in_pieces(format, text, 7) == whole);
    CL_ASSERT(told_in_pieces(ToolFormat::kNone, text, 5) == text);
}

}  // namespace

std::vector<Bytes> seeds() {
    return {
        seed(0, R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user",
            "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 9, "n": 2, "seed": 3,
            "stop": ["a", "\u00e4"], "logprobs": true, "top_logprobs": 2, "stream": true,
            "stream_options": {"include_usage": true}, "logit_bias": {"5": -100}})"),
        seed(0, R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "c",
            "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]}, {"role":
            "tool", "tool_call_id": "c", "content": "2"}], "tools": [{"type": "function",
            "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice":
            {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false})"),
        seed(0, R"({"messages": [{"role": "user", "content": "x"}], "response_format": {"type":
            "json_schema", "json_schema": {"schema": {"type": "object"}}}, "temperature": 0.5})"),
        seed(1, R"({"prompt": ["a", [3, 4]], "echo": true, "logprobs": 2, "max_tokens": 0})"),
        seed(1, R"({"prompt": "a", "stop": "b", "n": 1, "presence_penalty": -2, "top_p": 1e-3})"),
        seed(2, R"({"prompt": "a", "regex": "[a-z]+", "min_tokens": 1, "priority": -3})"),
        seed(2, R"({"token_ids": [1, 2], "choice": ["yes", "no"], "deadline_ms": 500})"),
        seed(3, "So: <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"\"}}\n"
                "</tool_call> and <tool_call> no"),
        seed(4, R"({"name": "f", "parameters": {"a": [1, {"b": null}]}}; {"name": "g"})"),
    };
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const uint8_t kind = data[0] % chatloop::fuzz::kKinds;
    if (kind < 3) chatloop::fuzz::check_ask(kind, text);
    else chatloop::fuzz::check_calls(kind == 3 ? chatloop::ToolFormat::kHermes
                                               : chatloop::ToolFormat::kLlama3, text);
    return 0;
}
