// The router's HTTP API on a port: Api and Health between the port's server and whoever carries
// messages to the router. What the router says is heard in deliver(), never within a call to it.
#pragma once

#include <deque>
#include <string>
#include <utility>

#include "chatloop/http/api.hpp"
#include "chatloop/http/health.hpp"
#include "chatloop/model/spec.hpp"
#include "chatloop/router/router.hpp"
#include "http_port.hpp"

namespace chatloop::actors {

class HttpFront {
public:
    // `keys_file` may be empty. Ends the process when it cannot be read or holds no key.
    HttpFront(HttpPort& port, const std::string& actor, const std::string& keys_file,
              const RouterConfig& router, const TextEngine& text, http::ToRouter to_router,
              http::Journal* journal = nullptr);

    // Whether a client of the router is one of this front's.
    static bool owns(const std::string& client) { return client.starts_with(http::kClientPrefix); }
    void hear(const std::string& client, wire::RouterBody message) {
        heard_.emplace_back(client, std::move(message));
    }
    bool has_news() const { return !heard_.empty(); }
    void deliver(TimeUs now);

    void on_tick(TimeUs now);
    TimeUs next_timer() const;
    // No answer is under way.
    bool idle() const { return port_.server().idle(); }
    http::Api& api() { return api_; }
    const http::Api& api() const { return api_; }
    http::Site& site() { return port_.site(); }

private:
    HttpPort& port_;
    http::Api api_;
    http::Health health_;
    std::deque<std::pair<std::string, wire::RouterBody>> heard_;
};

// The keys of a file: a line each, blank ones and those that begin with # left out. kBadFile.
Result<std::vector<std::string>> read_keys(const std::string& path);

}  // namespace chatloop::actors
