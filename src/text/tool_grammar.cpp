// The constraint behind tool_choice "required" and a named function, and the ids of calls.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "chatloop/core/splitmix64.hpp"
#include "chatloop/text/tool_calls.hpp"

namespace chatloop {
namespace {

using nlohmann::ordered_json;

struct Form {
    std::string_view open, arguments_key, close, separator;
};

constexpr Form kHermesForm = {"<tool_call>\n", "arguments", "\n</tool_call>", "\n"};
constexpr Form kLlama3Form = {"", "parameters", "", "; "};

// A string of Lark is written as one of JSON.
std::string quoted(const std::string& text) {
    return ordered_json(text).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

Error invalid(std::string message) { return {ErrorCode::kInvalidRequest, std::move(message)}; }

// JSON of a schema as the grammar's %json; nothing if `schema` is no schema.
std::optional<std::string> json_rule(ordered_json schema) {
    if (schema.is_null()) schema = {{"type", "object"}};
    if (!schema.is_object()) return std::nullopt;
    schema["x-guidance"] = {{"whitespace_flexible", false},  // as for json_schema
                            {"item_separator", ", ?"},
                            {"key_separator", ": ?"}};
    return "%json " + schema.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

Result<std::string> tool_grammar(ToolFormat format, std::string_view tools, std::string_view name,
                                 bool parallel, std::string_view or_schema) {
    if (format == ToolFormat::kNone)
        return invalid("the model's chat template has no tools");
    if (!or_schema.empty() && format != ToolFormat::kHermes)
        return invalid("the model's calls are JSON as the answer is");
    const ordered_json list = ordered_json::parse(tools, nullptr, false);
    if (!list.is_array()) return invalid("tools is not a JSON array");
    const Form& form = format == ToolFormat::kHermes ? kHermesForm : kLlama3Form;
    std::string calls, rules;
    for (const ordered_json& tool : list) {
        const auto function = tool.is_object() ? tool.find("function") : tool.end();
        if (!tool.is_object() || function == tool.end() || !function->is_object() ||
            !function->contains("name") || !(*function)["name"].is_string())
            return invalid("a tool is not a function with a name");
        const std::string own = (*function)["name"].get<std::string>();
        if (!name.empty() && own != name) continue;
        const std::string number = std::to_string(&tool - &list[0]);
        const std::optional<std::string> arguments =
            json_rule(function->value("parameters", ordered_json()));
        if (!arguments) return invalid("the parameters of function " + own + " are no schema");
        const std::string head = std::string(form.open) + "{\"name\": " + quoted(own) + ", \"" +
                                 std::string(form.arguments_key) + "\": ";
        calls += (calls.empty() ? "call_" : " | call_") + number;
        rules += "call_" + number + ": " + quoted(head) + " args_" + number + " " +
                 quoted("}" + std::string(form.close)) + "\nargs_" + number + ": " + *arguments +
                 "\n";
    }
    if (calls.empty())
        return invalid(name.empty() ? "tools is empty"
                                    : "tool_choice names no function of tools: " +
                                          std::string(name));
    const std::string more = parallel ? " (" + quoted(std::string(form.separator)) + " call)*" : "";
    rules = "call: " + calls + "\n" + rules;
    if (or_schema.empty()) return "start: call" + more + "\n" + rules;
    const std::optional<std::string> answer =
        json_rule(ordered_json::parse(or_schema, nullptr, false));
    if (!answer) return invalid("the schema of the answer is not a JSON object");
    return "start: answer | calls\ncalls: call" + more + "\nanswer: " + *answer + "\n" + rules;
}

std::string tool_call_id(uint64_t seed, uint32_t choice, uint32_t index) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    constexpr int kWords = 2;
    constexpr size_t kLength = 24;
    std::string digits;
    uint64_t state = seed ^ (uint64_t{choice} << 32 | index) * 0x9e3779b97f4a7c15u;
    for (int word = 0; word < kWords; ++word) {
        uint64_t z = splitmix64(state);
        for (int i = 0; i < 16; ++i, z >>= 4) digits += kDigits[z & 15];
    }
    return "call_" + digits.substr(0, kLength);
}

}  // namespace chatloop
