#include "http_port.hpp"

#include "chatloop/bus/system.hpp"
#include "common.hpp"

namespace chatloop::actors {

HttpPort::HttpPort(PollLoop& loop, const std::string& actor, const std::string& address)
    : HttpPort(loop) {
    value_or_die(actor, listen(address));
}

Result<std::unique_ptr<HttpPort>> HttpPort::open(PollLoop& loop, const std::string& address) {
    std::unique_ptr<HttpPort> port(new HttpPort(loop));
    if (const Status listens = port->listen(address); !listens) return listens.error();
    return port;
}

Status HttpPort::listen(const std::string& address) {
    http::ServerEvents events;
    events.headers = http::site_headers();
    events.on_head = [this](const http::Request& request) { return site_.on_head(request); };
    events.on_request = [this](http::ExchangeId id, http::Request request, TimeUs now) {
        std::optional<http::Response> response = site_.on_request(id, request, now);
        if (response) server_->respond(id, std::move(*response));
    };
    events.on_gone = [this](http::ExchangeId id, TimeUs now) {
        if (told_) told_(id, now);
    };
    Result<std::unique_ptr<http::Server>> server =
        http::Server::listen(address, std::move(events), monotonic_now());
    if (!server) return server.error();
    server_ = std::move(*server);
    for (const int fd : server_->fds())
        loop_.add_fd(fd, [this](TimeUs) { readable_ = true; });
    site_.add("GET", "/healthz", http::Access::kOpen, [](http::ExchangeId, http::Request&, TimeUs) {
        return http::Response{200, "application/json", R"({"status":"ok"})", {}};
    });
    return Ok{};
}

HttpPort::~HttpPort() {
    if (server_ == nullptr) return;
    for (const int fd : server_->fds()) loop_.remove_fd(fd);
}

void HttpPort::on_tick(TimeUs now) {
    if (has_work() || now >= next_timer()) flush(now);
}

void HttpPort::flush(TimeUs now) {
    readable_ = false;
    server_->turn(now);
}

}  // namespace chatloop::actors
