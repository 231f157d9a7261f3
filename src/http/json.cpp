#include "chatloop/http/json.hpp"

#include <array>
#include <cmath>
#include <cstdio>

#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

// Looks at the structure before anything is built from it: a small body may hold very many values,
// and members of one object are compared with each other.
class Shape {
public:
    const char* check(std::string_view body) {
        for (size_t i = 0; i < body.size(); ++i) {
            const char c = body[i];
            if (c == '"') {
                i = end_of_string(body, i + 1);
                continue;
            }
            if (const char* wrong = take(c)) return wrong;
        }
        return nullptr;
    }

private:
    static size_t end_of_string(std::string_view body, size_t i) {
        for (; i < body.size() && body[i] != '"'; ++i)
            if (body[i] == '\\') ++i;
        return i;
    }
    const char* take(char c) {
        if (c == '{' || c == '[') {
            if (++depth_ > kJsonDepthMax) return "the JSON is nested too deep";
            members_[depth_] = 0;
        } else if ((c == '}' || c == ']') && depth_ > 0) {
            --depth_;
        } else if (c == ',' && ++values_ > kJsonValuesMax) {
            return "the JSON has too many values";
        } else if (c == ':' &&
                   (++members_[depth_] > kJsonMembersMax || ++all_members_ > kJsonAllMembersMax)) {
            return "the JSON has too many fields";
        }
        return nullptr;
    }

    size_t depth_ = 0;
    size_t values_ = 0;
    size_t all_members_ = 0;
    std::array<size_t, kJsonDepthMax + 1> members_{};
};

std::string plain(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.15g", value);
    return text;
}

}  // namespace

std::variant<Json, Problem> parse_object(std::string_view body) {
    if (const char* wrong = Shape().check(body)) return Problem{400, wrong, "", "invalid_json"};
    Json parsed;
    try {
        parsed = Json::parse(body);
    } catch (const nlohmann::json::exception& error) {
        // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
        const std::string what = error.what();
        const size_t text = what.find("] ");
        return Problem{400,
                       "the body is not JSON: " + what.substr(text == what.npos ? 0 : text + 2)
                                                      .substr(0, kNameBytesMax),
                       "", "invalid_json"};
    }
    if (!parsed.is_object()) return Problem{400, "the body is not a JSON object", "",
                                            "invalid_json"};
    return parsed;
}

std::string to_text(const Json& value) {
    return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

size_t text_bytes(std::string_view text) {
    size_t bytes = text.size();
    for (const char c : text) {
        if (c == '"' || c == '\\') bytes += 1;
        if (static_cast<unsigned char>(c) < 0x20)
            bytes += std::string_view("\b\f\n\r\t").find(c) != std::string_view::npos ? 1 : 5;
    }
    return bytes;
}

std::string with_member(std::string object, std::string_view name, std::string_view value) {
    object.pop_back();  // its brace
    if (object.size() > 1) object += ',';
    object.append("\"").append(name).append("\":").append(value);
    return object += '}';
}

std::string Fields::path(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
}

void Fields::fail(const std::string& name, const std::string& what, const std::string& code) {
    if (problem_) return;
    problem_ = Problem{400, path(name) + " " + what, path(name), code};
}

const Json* Fields::find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::string Fields::text(const char* name, size_t bytes_max) {
    const Json* value = find(name);
    if (value == nullptr) return {};
    if (!value->is_string()) {
        fail(name, "is not a string");
        return {};
    }
    const std::string& text = value->get_ref<const std::string&>();
    if (text.size() > bytes_max) fail(name, "is too long");
    return text;
}

std::optional<bool> Fields::boolean(const char* name) {
    const Json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>();
    fail(name, "is neither true nor false");
    return std::nullopt;
}

std::optional<double> Fields::number(const char* name, double low, double high) {
    const Json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) {
        fail(name, "is not a number");
        return std::nullopt;
    }
    const double number = value->get<double>();
    if (number >= low && number <= high) return number;
    fail(name, "is not from " + plain(low) + " to " + plain(high));
    return std::nullopt;
}

std::optional<int64_t> Fields::integer(const char* name, int64_t low, int64_t high) {
    const Json* value = find(name);
    if (value == nullptr) return std::nullopt;
    constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it a double is not that integer
    const bool whole = value->is_number_float() &&
                       std::trunc(value->get<double>()) == value->get<double>() &&
                       std::fabs(value->get<double>()) <= kExact;
    if (!value->is_number_integer() && !whole) {
        fail(name, "is not an integer");
        return std::nullopt;
    }
    const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX;
    const int64_t number = huge ? INT64_MAX : value->get<int64_t>();
    if (!huge && number >= low && number <= high) return number;
    fail(name, "is not from " + std::to_string(low) + " to " + std::to_string(high));
    return std::nullopt;
}

}  // namespace chatloop::http
