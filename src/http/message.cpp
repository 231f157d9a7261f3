#include "chatloop/http/message.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

const char* type_of(int status) {
    switch (status) {
        case 401: return "authentication_error";
        case 404: return "not_found_error";
        case 429: return "rate_limit_error";
        case 503: return "unavailable_error";
        default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

}  // namespace

std::string_view Request::header(std::string_view name) const {
    const auto found = std::find_if(headers.begin(), headers.end(),
                                    [name](const auto& entry) { return entry.first == name; });
    return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

size_t Request::count(std::string_view name) const {
    return static_cast<size_t>(
        std::count_if(headers.begin(), headers.end(),
                      [name](const auto& entry) { return entry.first == name; }));
}

std::string problem_json(const Problem& problem) {
    const auto text = [](const std::string& value) {
        return value.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
    };
    nlohmann::ordered_json error;
    error["error"] = {{"message", problem.message},
                      {"type", type_of(problem.status)},
                      {"param", text(problem.param)},
                      {"code", text(problem.code)}};
    return error.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Clients of OpenAI try again by themselves after 408, 409, 429 and 5xx, as these headers say.
Response problem_response(const Problem& problem) {
    Response response{problem.status, "application/json", problem_json(problem), {}};
    const bool again = problem.retry_after_ms > 0;
    if (again) {
        const unsigned seconds = (problem.retry_after_ms + 999) / 1000;
        response.headers.emplace_back("Retry-After", std::to_string(seconds));
        response.headers.emplace_back("retry-after-ms", std::to_string(problem.retry_after_ms));
    }
    if (problem.status >= 400) response.headers.emplace_back("x-should-retry",
                                                             again ? "true" : "false");
    return response;
}

bool is_plain_id(std::string_view text) {
    return !text.empty() && text.size() <= kRequestIdBytesMax &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

}  // namespace chatloop::http
