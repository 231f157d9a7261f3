// What a client asks for over HTTP, read from the JSON of its request (docs/http.md). Pure.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "chatloop/http/json.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop::http {

enum class Surface : uint8_t {
    kChat,     // /v1/chat/completions
    kText,     // /v1/completions
    kExecute,  // /execute
};

using Prompt = decltype(wire::Parameters::prompt);

struct Ask {
    Surface surface = Surface::kChat;
    bool stream = false;
    bool include_usage = false;
    bool resumable = false;
    wire::Parameters parameters;  // but for its prompt
    std::vector<Prompt> prompts;  // one request each; more than one for kText only
    bool tool_required = false;   // at least one call, of called_tool if that is not empty
    std::string called_tool;
    bool parallel_tool_calls = true;
};

using AskOrProblem = std::variant<Ask, Problem>;

AskOrProblem read_chat(const Json& body);
AskOrProblem read_completion(const Json& body);
AskOrProblem read_execute(const Json& body);

// The messages of a chat, as /apply-template takes them, too.
std::vector<wire::Message> read_messages(Fields& fields);
// Token ids of a field that is an array of them.
std::vector<uint32_t> read_token_ids(Fields& fields, const char* name, size_t count_max);

}  // namespace chatloop::http
