// The two forms in which models write calls. Only as much of JSON is read as streaming needs:
// strings, brackets, and the keys of the call's own object.
#include "chatloop/text/tool_calls.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace chatloop {
namespace {

constexpr std::string_view kOpenTag = "<tool_call>";
constexpr std::string_view kCloseTag = "</tool_call>";
constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t kHeadBytesMax = 16u << 10;  // of a call until its name is known

bool contains(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
}

size_t skip_space(std::string_view text, size_t at) {
    return std::min(text.find_first_not_of(kSpace, at), text.size());
}

// Behind the string that begins at `at`; nothing if it does not end.
std::optional<size_t> string_end(std::string_view text, size_t at) {
    for (++at; at < text.size(); ++at) {
        if (text[at] == '\\') ++at;
        else if (text[at] == '"') return at + 1;
    }
    return std::nullopt;
}

// Behind the value that begins at `at`; nothing if its end is not there.
std::optional<size_t> value_end(std::string_view text, size_t at) {
    uint32_t depth = 0;
    while (at < text.size()) {
        const char c = text[at];
        if (c == '"') {
            const std::optional<size_t> end = string_end(text, at);
            if (!end) return std::nullopt;
            at = *end;
            if (depth == 0) return at;
            continue;
        }
        if (c == '{' || c == '[') ++depth;
        if (depth == 0 && (c == ',' || c == '}' || contains(kSpace, {&c, 1}))) return at;
        ++at;
        if ((c == '}' || c == ']') && --depth == 0) return at;
    }
    return std::nullopt;
}

std::optional<std::string> string_of(std::string_view json_text) {
    const auto json = nlohmann::json::parse(json_text, nullptr, false);
    if (!json.is_string()) return std::nullopt;
    return json.get<std::string>();
}

struct Head {
    enum State : uint8_t { kMore, kNoCall, kBegun, kWhole };
    State state = kMore;
    std::string name;
    size_t end = 0;         // kBegun: of what stands before the arguments; kWhole: of the object
    std::string arguments;  // kWhole
};

// What the arguments are, when they have come as a whole.
std::optional<std::string> whole_arguments(std::string_view value) {
    if (value.front() == '{') return std::string(value);
    if (value == "null") return "{}";
    return string_of(value);
}

// The call's object as far as it has come: keys and values up to the arguments, whose name must be
// known before they can be passed on.
Head read_head(std::string_view text) {
    Head head;
    std::string arguments = "{}";
    size_t at = skip_space(text, 0);
    if (at == text.size()) return head;
    if (text[at] != '{') return {Head::kNoCall, {}, 0, {}};
    for (++at;;) {
        at = skip_space(text, at);
        if (at == text.size()) return head;
        if (text[at] == '}') break;
        if (text[at] != '"') return {Head::kNoCall, {}, 0, {}};
        const std::optional<size_t> key_end = string_end(text, at);
        if (!key_end) return head;
        const std::string_view key = text.substr(at + 1, *key_end - at - 2);
        at = skip_space(text, *key_end);
        if (at == text.size()) return head;
        if (text[at] != ':') return {Head::kNoCall, {}, 0, {}};
        at = skip_space(text, at + 1);
        if (at == text.size()) return head;
        const bool is_arguments = key == "arguments" || key == "parameters";
        if (is_arguments && !head.name.empty() && text[at] == '{') {
            head.state = Head::kBegun;
            head.end = at;
            return head;
        }
        const std::optional<size_t> end = value_end(text, at);
        if (!end) return head;
        const std::string_view value = text.substr(at, *end - at);
        if (value.empty()) return {Head::kNoCall, {}, 0, {}};
        if (key == "name") {
            const std::optional<std::string> name = string_of(value);
            if (!name || name->empty()) return {Head::kNoCall, {}, 0, {}};
            head.name = *name;
        }
        if (is_arguments) {
            const std::optional<std::string> whole = whole_arguments(value);
            if (!whole) return {Head::kNoCall, {}, 0, {}};
            arguments = *whole;
        }
        at = skip_space(text, *end);
        if (at < text.size() && text[at] == ',') ++at;
    }
    if (head.name.empty()) return {Head::kNoCall, {}, 0, {}};
    head.state = Head::kWhole;
    head.end = at + 1;
    head.arguments = std::move(arguments);
    return head;
}

// How much of the text's end may be the beginning of the tag, with the white space before it.
size_t possible_tag(std::string_view text, std::string_view tag) {
    size_t bytes = std::min(text.size(), tag.size() - 1);
    while (bytes > 0 && text.substr(text.size() - bytes) != tag.substr(0, bytes)) --bytes;
    const std::string_view before = text.substr(0, text.size() - bytes);
    const size_t last = before.find_last_not_of(kSpace);
    return text.size() - (last == std::string_view::npos ? 0 : last + 1);
}

}  // namespace

ToolFormat tool_format(std::string_view chat_template) {
    if (!contains(chat_template, "tools")) return ToolFormat::kNone;
    if (contains(chat_template, kOpenTag)) return ToolFormat::kHermes;
    const bool llama = contains(chat_template, "\"parameters\"") &&
                       contains(chat_template, "Environment: ipython");
    return llama ? ToolFormat::kLlama3 : ToolFormat::kNone;
}

std::vector<ToolEvent> ToolCallParser::push(std::string_view text) {
    held_ += text;
    while (step(false)) {}
    return std::exchange(events_, {});
}

std::vector<ToolEvent> ToolCallParser::finish() {
    while (step(true)) {}
    const bool in_call = where_ == Where::kArguments || where_ == Where::kTail;
    const bool only_space = held_.find_first_not_of(kSpace) == std::string::npos;
    if (!in_call && !(calls_ > 0 && raw_head_.empty() && only_space))
        emit_content(raw_head_ + held_);
    raw_head_.clear();
    held_.clear();
    return std::exchange(events_, {});
}

bool ToolCallParser::step(bool at_end) {
    switch (where_) {
        case Where::kStart: return take_start();
        case Where::kContent: return take_content(at_end);
        case Where::kHead: return take_head();
        case Where::kArguments: return take_arguments();
        case Where::kTail: return take_tail();
    }
    return false;
}

// In the Llama form an answer is calls from its first character on, or has none.
bool ToolCallParser::take_start() {
    if (format_ != ToolFormat::kLlama3) {
        where_ = Where::kContent;
        return true;
    }
    const size_t first = held_.find_first_not_of(calls_ > 0 ? "; \t\r\n" : kSpace);
    if (first == std::string::npos) return false;
    const bool is_call = held_[first] == '{';
    where_ = is_call ? Where::kHead : Where::kContent;
    if (is_call) {
        raw_head_ = held_.substr(0, first);
        held_.erase(0, first);
    }
    return true;
}

bool ToolCallParser::take_content(bool at_end) {
    if (held_.empty()) return false;
    if (format_ != ToolFormat::kHermes) {
        emit_content(held_);
        held_.clear();
        return false;
    }
    const size_t tag = held_.find(kOpenTag);
    if (tag == std::string::npos) {
        if (at_end) return false;
        const size_t passed = held_.size() - possible_tag(held_, kOpenTag);
        emit_content(std::string_view(held_).substr(0, passed));
        held_.erase(0, passed);
        return false;
    }
    const size_t last = std::string_view(held_).substr(0, tag).find_last_not_of(kSpace);
    const size_t text = last == std::string::npos ? 0 : last + 1;
    emit_content(std::string_view(held_).substr(0, text));
    raw_head_ = held_.substr(text, tag + kOpenTag.size() - text);
    held_.erase(0, tag + kOpenTag.size());
    where_ = Where::kHead;
    return true;
}

bool ToolCallParser::take_head() {
    Head head = read_head(held_);
    if (head.state == Head::kMore && held_.size() <= kHeadBytesMax) return false;
    if (head.state == Head::kMore || head.state == Head::kNoCall) {
        not_a_call();
        return true;
    }
    raw_head_.clear();
    begin_call(std::move(head.name));
    held_.erase(0, head.end);
    depth_ = head.state == Head::kBegun ? 0 : 1;
    in_string_ = escaped_ = false;
    if (head.state == Head::kBegun) {
        where_ = Where::kArguments;
        return true;
    }
    emit_arguments(std::move(head.arguments));
    where_ = format_ == ToolFormat::kLlama3 ? Where::kStart : Where::kTail;
    return true;
}

// Passed on as they come, up to the bracket that closes them.
bool ToolCallParser::take_arguments() {
    for (size_t at = 0; at < held_.size(); ++at) {
        const char c = held_[at];
        if (escaped_) escaped_ = false;
        else if (in_string_) {
            escaped_ = c == '\\';
            in_string_ = c != '"';
        } else if (c == '"') in_string_ = true;
        else if (c == '{' || c == '[') ++depth_;
        else if ((c == '}' || c == ']') && --depth_ == 0) {
            emit_arguments(held_.substr(0, at + 1));
            held_.erase(0, at + 1);
            where_ = Where::kTail;
            return true;
        }
    }
    if (!held_.empty()) emit_arguments(held_);
    held_.clear();
    return false;
}

// To the end of the call: its tag (or the next call's), or the bracket of its object.
bool ToolCallParser::take_tail() {
    if (format_ == ToolFormat::kLlama3) {
        const size_t end = held_.find('}');
        held_.erase(0, end == std::string::npos ? held_.size() : end + 1);
        if (end == std::string::npos) return false;
        where_ = Where::kStart;
        return true;
    }
    const size_t close = held_.find(kCloseTag);
    const size_t next = held_.find(kOpenTag);
    if (close == std::string::npos && next == std::string::npos) {
        const size_t kept = std::min(held_.size(), kCloseTag.size() - 1);
        held_.erase(0, held_.size() - kept);
        return false;
    }
    held_.erase(0, close < next ? close + kCloseTag.size() : next);
    where_ = Where::kContent;
    return true;
}

void ToolCallParser::not_a_call() {
    emit_content(raw_head_);
    raw_head_.clear();
    where_ = Where::kContent;
}

void ToolCallParser::begin_call(std::string name) {
    events_.emplace_back(ToolCallBegin{calls_, std::move(name)});
    ++calls_;
}

void ToolCallParser::emit_content(std::string_view text) {
    if (text.empty()) return;
    auto* last = events_.empty() ? nullptr : std::get_if<ToolContent>(&events_.back());
    if (last != nullptr) last->text += text;
    else events_.emplace_back(ToolContent{std::string(text)});
}

void ToolCallParser::emit_arguments(std::string text) {
    events_.emplace_back(ToolCallArguments{calls_ - 1, std::move(text)});
}

}  // namespace chatloop
