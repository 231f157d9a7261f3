#include "http_front.hpp"

#include <ctime>
#include <fstream>

#include "chatloop/core/hex.hpp"
#include "common.hpp"

namespace chatloop::actors {

namespace {

http::ApiConfig api_config(const RouterConfig& router, http::Journal* journal) {
    http::ApiConfig config;
    config.model = router.model_name;
    config.context_length = router.context_length;
    config.fingerprint = hex16(router.cluster.fingerprint);
    config.seed = random_u64();
    config.unix_time = [] { return static_cast<int64_t>(std::time(nullptr)); };
    config.stream_key = [] { return hex16(random_u64()) + hex16(random_u64()); };
    config.client_silence_us = router.client_silence_us;
    config.journal = journal;
    return config;
}

}  // namespace

Result<std::vector<std::string>> read_keys(const std::string& path) {
    std::vector<std::string> keys;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        const size_t end = line.find_last_not_of(" \t\r");
        line.resize(end == line.npos ? 0 : end + 1);
        if (line.empty() || line.front() == '#') continue;
        if (keys.size() >= kHttpKeysMax || line.size() > kNameBytesMax)
            return Error{ErrorCode::kBadFile, path + ": too many or too long keys"};
        keys.push_back(line);
    }
    if (keys.empty()) return Error{ErrorCode::kBadFile, path + ": no file with a key a line"};
    return keys;
}

HttpFront::HttpFront(HttpPort& port, const std::string& actor, const std::string& keys_file,
                     const RouterConfig& router, const TextEngine& text, http::ToRouter to_router,
                     http::Journal* journal)
    : port_(port),
      api_(api_config(router, journal), port.server(), text, to_router),
      health_(port.server(), to_router) {
    if (!keys_file.empty()) port.site().set_keys(value_or_die(actor, read_keys(keys_file)));
    api_.serve(port.site());
    health_.serve(port.site());
    port.on_gone([this](http::ExchangeId id, TimeUs now) {
        api_.on_gone(id, now);
        health_.on_gone(id);
    });
}

void HttpFront::deliver(TimeUs now) {
    while (!heard_.empty()) {
        const auto [client, message] = std::move(heard_.front());
        heard_.pop_front();
        client == http::kHealthClient ? health_.on_router(message, now)
                                      : api_.on_router(message, now);
    }
}

void HttpFront::on_tick(TimeUs now) {
    api_.on_tick(now);
    health_.on_tick(now);
    deliver(now);
}

TimeUs HttpFront::next_timer() const {
    return std::min(api_.next_timer(), health_.next_timer());
}

}  // namespace chatloop::actors
