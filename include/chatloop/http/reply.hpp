// The JSON that answers are made of, in OpenAI's shapes and in /execute's (docs/http.md). Pure:
// from what the router said to one event of a stream, or to a whole body.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/http/ask.hpp"
#include "chatloop/http/json.hpp"
#include "chatloop/http/logprobs.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop::http {

// The same in every event of an answer.
struct ReplyHead {
    Surface surface = Surface::kChat;
    std::string id;           // "chatcmpl-..."
    int64_t created = 0;      // s since 1970
    std::string model;
    std::string fingerprint;  // of the numerics
    bool with_usage = false;  // "usage" stands in every event
    std::string text_chunk_begin = {};  // of these: text_chunk()'s JSON up to a choice's index
};

struct Usage {
    uint64_t prompt_tokens = 0;
    uint64_t cached_tokens = 0;
    uint64_t completion_tokens = 0;
};

struct ToolCall {
    std::string id;
    std::string name;
    std::string arguments;  // JSON text
};

// One choice of an answer, as far as it has come.
struct Choice {
    uint32_t index = 0;
    std::string text;
    std::vector<ToolCall> tool_calls;
    LogprobsText logprobs;
    std::string finish_reason;
    wire::Stop stop;
};

// A line of an event stream: "data: {...}\n\n".
std::string event(std::string_view json);
inline constexpr char kStreamEnd[] = "data: [DONE]\n\n";
inline constexpr char kStreamPing[] = ": ping\n";  // no empty line: old clients would parse it

// kChat: the first event of a choice.
Json role_chunk(const ReplyHead& head, uint32_t index);
// What came: text and, when asked for, its log-probabilities; and why it ended, if it has.
std::string text_chunk(const ReplyHead& head, const Choice& choice, bool wants_logprobs);
std::string text_chunk_begin(const ReplyHead& head);
// A call that begins, or more of its arguments: `call.name` is empty then.
Json tool_chunk(const ReplyHead& head, uint32_t index, uint32_t call_index, const ToolCall& call);
Json end_chunk(const ReplyHead& head, const Choice& choice);
Json usage_chunk(const ReplyHead& head, const Usage& usage);

// The JSON text of a whole answer. `seed` is /execute's.
std::string whole_answer(const ReplyHead& head, const std::vector<Choice>& choices,
                         const Usage& usage, bool wants_logprobs, uint64_t seed);
// The last event of a stream of /execute.
Json execute_end(const ReplyHead& head, const Choice& choice, const Usage& usage, uint64_t seed);

Problem problem_of(const wire::Failure& failure);

}  // namespace chatloop::http
