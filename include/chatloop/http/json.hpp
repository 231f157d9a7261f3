// JSON of request bodies: parsed within bounds, read field by field. What is wrong becomes a
// Problem that names the field; `null` is the same as absent, unknown fields are nobody's business.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "chatloop/http/message.hpp"

namespace chatloop::http {

using Json = nlohmann::ordered_json;  // a template sees tools in the order of the request

// An object, or why there is none (400).
std::variant<Json, Problem> parse_object(std::string_view body);

// One line, whatever bytes are in its strings.
std::string to_text(const Json& value);
// How many bytes a text has within a string of JSON.
size_t text_bytes(std::string_view text);
// The text of a JSON object with one more member, whose value is JSON text.
std::string with_member(std::string object, std::string_view name, std::string_view value);

// The fields of an object. Reading goes on behind a mistake; the first one is kept.
class Fields {
public:
    Fields(const Json& object, std::optional<Problem>& problem, std::string path = {})
        : object_(object), problem_(problem), path_(std::move(path)) {}

    // Those of an object in the field `name`.
    Fields within(const Json& object, const std::string& name) const {
        return Fields(object, problem_, path(name));
    }
    const Json* find(const char* name) const;  // null: absent, or null
    std::string text(const char* name, size_t bytes_max);
    std::optional<bool> boolean(const char* name);
    std::optional<double> number(const char* name, double low, double high);
    std::optional<int64_t> integer(const char* name, int64_t low, int64_t high);

    std::string path(const std::string& name) const;
    // "messages[2].role is not a string"
    void fail(const std::string& name, const std::string& what, const std::string& code = {});
    bool failed() const { return problem_.has_value(); }

private:
    const Json& object_;
    std::optional<Problem>& problem_;
    std::string path_;
};

}  // namespace chatloop::http
