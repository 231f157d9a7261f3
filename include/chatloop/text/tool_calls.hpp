// Tools beside the text: what a model writes to call one is taken out of its answer, piece by piece
// as it streams; and a constraint that makes it write a call. Pure: no tokenizer, no JSON of a
// request.
//
// How the front of an API uses it:
//   1. encode_chat() with `tools` (text/text.hpp) unless tool_choice is "none".
//   2. tool_choice "required" or a named function, or a form of the answer beside tool_choice
//      "auto": tool_grammar() is the request's `grammar`.
//   3. per choice one ToolCallParser(tool_format(template)), if there are tools; each piece of the
//      answer's text goes through push(), the end through finish(). The events come in order.
//   4. finish_reason is "tool_calls" where it would be "stop" and calls() > 0.
//
//     ToolCallParser parser(format);
//     for (const ToolEvent& event : parser.push(piece)) ...
//     for (const ToolEvent& event : parser.finish()) ...
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "chatloop/core/result.hpp"

namespace chatloop {

enum class ToolFormat : uint8_t {
    kNone,    // the template has no tools: all is content
    kHermes,  // <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>, also Qwen's
    kLlama3,  // the whole answer is {"name": ..., "parameters": {...}}, several joined by ';'
};

// From the source of a chat template.
ToolFormat tool_format(std::string_view chat_template);

// What is to be sent, in this order.
struct ToolContent {
    std::string text;
    bool operator==(const ToolContent&) const = default;
};
struct ToolCallBegin {      // the first delta of a call: with index, id, type and name
    uint32_t index = 0;     // 0, 1, ...
    std::string name;
    bool operator==(const ToolCallBegin&) const = default;
};
struct ToolCallArguments {  // a piece of the JSON text of the arguments
    uint32_t index = 0;
    std::string text;
    bool operator==(const ToolCallArguments&) const = default;
};
using ToolEvent = std::variant<ToolContent, ToolCallBegin, ToolCallArguments>;

class ToolCallParser {
public:
    explicit ToolCallParser(ToolFormat format) : format_(format) {}

    // Events of a piece of text. Held back is what may yet become a tag, and a call until its name
    // is known. What turns out to be no call is content, unchanged.
    std::vector<ToolEvent> push(std::string_view text);
    // The text has ended: what was held back, as content; a call that was begun stays as it is.
    std::vector<ToolEvent> finish();

    uint32_t calls() const { return calls_; }  // that have begun

private:
    enum class Where : uint8_t { kStart, kContent, kHead, kArguments, kTail };

    // Each takes what it can from the front of held_; false: it needs more text.
    bool step(bool at_end);
    bool take_start();
    bool take_content(bool at_end);
    bool take_head();
    bool take_arguments();
    bool take_tail();

    void not_a_call();
    void begin_call(std::string name);
    void emit_content(std::string_view text);
    void emit_arguments(std::string text);

    ToolFormat format_;
    Where where_ = Where::kStart;
    std::string held_;      // text that has not become events
    std::string raw_head_;  // what stood before held_ and belongs to the call that begins there
    uint32_t calls_ = 0;
    // Within arguments, or what follows them: open brackets, and whether within a string.
    uint32_t depth_ = 0;
    bool in_string_ = false;
    bool escaped_ = false;
    std::vector<ToolEvent> events_;
};

// The id of a call: "call_" and 24 digits of the request's seed, its choice and the index.
std::string tool_call_id(uint64_t seed, uint32_t choice, uint32_t index);

// A Lark grammar (Constraint kGrammar) of at least one call, or of exactly one if not `parallel`.
// `tools`: the JSON array of OpenAI's `tools`; `name`: the one that must be called, or empty;
// `or_schema`: a JSON schema, or empty: the answer may be JSON of it instead. Of kHermes only: the
// lexer does not tell a call of kLlama3 from other JSON.
// Errors: kInvalidRequest (tools that are no functions, an unknown name, a format without tools).
Result<std::string> tool_grammar(ToolFormat format, std::string_view tools, std::string_view name,
                                 bool parallel, std::string_view or_schema = {});

}  // namespace chatloop
