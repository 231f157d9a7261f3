// An HTTP address of a process: a server in the process's loop, and the site that it serves. Every
// port has /healthz, which says that the loop turns.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "chatloop/bus/poll_loop.hpp"
#include "chatloop/core/config.hpp"
#include "chatloop/http/server.hpp"
#include "chatloop/http/site.hpp"

namespace chatloop::actors {

class HttpPort {
public:
    // Binds or ends the process with the design's exit code.
    HttpPort(PollLoop& loop, const std::string& actor, const std::string& address);
    static Result<std::unique_ptr<HttpPort>> open(PollLoop& loop, const std::string& address);
    ~HttpPort();
    HttpPort(const HttpPort&) = delete;
    HttpPort& operator=(const HttpPort&) = delete;

    // Handlers are added before the loop runs.
    http::Site& site() { return site_; }
    http::Server& server() { return *server_; }
    const http::Server& server() const { return *server_; }
    std::string url() const { return "http://" + server_->address(); }
    // Told when a client is gone before its request was answered (ServerEvents::on_gone).
    void on_gone(std::function<void(http::ExchangeId, TimeUs)> told) { told_ = std::move(told); }

    // Every turn of the loop, and once more before a unit of work: what was written leaves then.
    void on_tick(TimeUs now);
    void flush(TimeUs now);
    bool has_work() const { return readable_ || server_->has_work(); }
    TimeUs next_timer() const { return server_->next_timer(); }

private:
    explicit HttpPort(PollLoop& loop) : loop_(loop) {}
    Status listen(const std::string& address);

    PollLoop& loop_;
    http::Site site_;
    std::function<void(http::ExchangeId, TimeUs)> told_;
    std::unique_ptr<http::Server> server_;
    bool readable_ = false;
};

}  // namespace chatloop::actors
