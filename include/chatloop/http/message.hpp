// A request and a response of the HTTP server (RFC 9110), whole.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace chatloop::http {

struct Request {
    std::string method;  // as sent: "GET"
    std::string path;    // decoded, without the query: "/v1/models"
    std::map<std::string, std::string> query;
    std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
    std::string peer;    // the client's address, without its port
    std::string body;

    // The first header of that name (in lower case); empty when there is none.
    std::string_view header(std::string_view name) const;
    size_t count(std::string_view name) const;
};

struct Response {
    int status = 200;
    std::string type = "application/json";
    std::string body;
    std::vector<std::pair<std::string, std::string>> headers;  // beside Content-Type and -Length
};

// OpenAI's shape: {"error": {"message", "type", "param", "code"}}, with the type of the status.
// Empty `param` and `code` are null.
struct Problem {
    int status = 400;
    std::string message;
    std::string param;
    std::string code;
    unsigned retry_after_ms = 0;  // for Retry-After; 0: none
};
inline constexpr unsigned kAgainMs = 1000;  // where nothing better is known
Response problem_response(const Problem& problem);
// The object alone, as a stream carries it: {"error": {...}}.
std::string problem_json(const Problem& problem);

// What a client may name its request: it comes back in a header. Visible ASCII, of bounded length.
bool is_plain_id(std::string_view text);

}  // namespace chatloop::http
