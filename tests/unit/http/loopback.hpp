// A server under test and raw clients on loopback. The test passes the server's time: it moves by
// what pass() is told, while turns run.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "chatloop/http/server.hpp"

namespace chatloop::http::testing {

class Loopback {
public:
    std::map<ExchangeId, Request> requests;  // that came, until a test takes them
    std::vector<ExchangeId> arrived;
    std::vector<ExchangeId> gone;
    std::function<std::optional<Response>(const Request&)> on_head =
        [](const Request&) { return std::optional<Response>(); };

    Loopback() {
        ServerEvents events;
        events.on_head = [this](const Request& request) { return on_head(request); };
        events.on_request = [this](ExchangeId id, Request request, TimeUs) {
            arrived.push_back(id);
            requests[id] = std::move(request);
        };
        events.on_gone = [this](ExchangeId id, TimeUs) { gone.push_back(id); };
        auto listening = Server::listen("127.0.0.1:*", std::move(events), now_);
        REQUIRE(listening);
        server_ = std::move(*listening);
    }

    Server& server() { return *server_; }
    uint16_t port() const {
        const std::string& address = server_->address();
        return static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    }

    // Turns as the loop makes them, until nothing has happened for a while.
    void settle() {
        for (int quiet = 0; quiet < 3;) {
            std::array<pollfd, 2> items{pollfd{server_->fds()[0], POLLIN, 0},
                                        pollfd{server_->fds()[1], POLLIN, 0}};
            const bool busy = server_->has_work();
            const int ready = poll(items.data(), items.size(), busy ? 0 : 10);
            quiet = busy || ready > 0 ? 0 : quiet + 1;
            server_->turn(now_);
        }
    }
    void until(const std::function<bool()>& done) {
        for (int i = 0; i < 500 && !done(); ++i) settle();
        CHECK(done());
    }
    void pass(TimeUs us) {
        now_ += us;
        settle();
    }

private:
    TimeUs now_ = kSecondUs;
    std::unique_ptr<Server> server_;
};

class RawClient {
public:
    explicit RawClient(Loopback& loopback, int receive_bytes = 0) : loopback_(loopback) {
        fd_ = socket(AF_INET, SOCK_STREAM, 0);
        if (receive_bytes > 0)
            setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(loopback.port());
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        fcntl(fd_, F_SETFL, O_NONBLOCK);
    }
    ~RawClient() { close(); }
    RawClient(const RawClient&) = delete;
    RawClient& operator=(const RawClient&) = delete;

    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }
    void half_close() { shutdown(fd_, SHUT_WR); }

    // Sends all of it, with turns of the server between; false when the server closed.
    bool send(std::string_view text) {
        for (int stuck = 0; !text.empty() && stuck < 500;) {
            const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN) return false;
            if (sent > 0) text.remove_prefix(static_cast<size_t>(sent));
            stuck = sent > 0 ? 0 : stuck + 1;
            loopback_.settle();
        }
        loopback_.settle();
        return text.empty();
    }
    // What came since the last call.
    std::string receive() {
        loopback_.settle();
        std::string all;
        char buffer[65536];
        for (;;) {
            const ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
            if (got == 0 || (got < 0 && errno != EAGAIN)) closed_ = true;
            if (got <= 0) return all;
            all.append(buffer, static_cast<size_t>(got));
            loopback_.settle();
        }
    }
    bool closed() {
        receive();
        return closed_;
    }

private:
    Loopback& loopback_;
    int fd_ = -1;
    bool closed_ = false;
};

inline std::string get(const std::string& path) {
    return "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n";
}
inline std::string post(const std::string& path, const std::string& body) {
    return "POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace chatloop::http::testing
