// One message of a chat, as a client sends it and as the chat template gets it.
#pragma once

#include <string>

namespace chatloop {

struct ChatMessage {
    std::string role;  // 1 to 64 letters, digits, '_' or '-'; "developer" where the template has it
    std::string content;
    bool has_content = true;
    std::string tool_calls = {};    // of an assistant: OpenAI's JSON array, or empty
    std::string tool_call_id = {};  // of a tool's answer, or empty
    std::string name = {};          // or empty
    bool operator==(const ChatMessage&) const = default;
};

}  // namespace chatloop
