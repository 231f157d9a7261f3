// What a server serves: handlers by method and path, and what holds for all of them: API keys,
// CORS, HEAD, OPTIONS, unknown paths and methods.
//
//     site.add("GET", "/metrics", Access::kOpen, [](ExchangeId, Request&, TimeUs) {
//         return Response{200, "text/plain", "..."};
//     });
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/http/message.hpp"
#include "chatloop/http/server.hpp"

namespace chatloop::http {

enum class Access : uint8_t { kOpen, kKey };  // kKey: needs a key where keys are configured

class Site {
public:
    // The response, or none when the handler answers later through the server.
    using Handler = std::function<std::optional<Response>(ExchangeId, Request&, TimeUs now)>;

    // `path` is exact, or a prefix when it ends in "/*". GET serves HEAD, too.
    void add(const std::string& method, const std::string& path, Access access, Handler handler);
    void set_keys(std::vector<std::string> keys) { keys_ = std::move(keys); }

    // As of ServerEvents.
    std::optional<Response> on_head(const Request& request) const;
    std::optional<Response> on_request(ExchangeId id, Request& request, TimeUs now) const;

private:
    struct Entry {
        std::string method;
        std::string path;
        Access access;
        Handler handler;
    };
    const Entry* find(const Request& request) const;
    std::set<std::string> methods_of(const std::string& path) const;
    bool has_key(const Request& request) const;

    std::vector<Entry> entries_;
    std::vector<std::string> keys_;
};

// What every response of a site carries, for ServerEvents.
std::vector<std::pair<std::string, std::string>> site_headers();

}  // namespace chatloop::http
