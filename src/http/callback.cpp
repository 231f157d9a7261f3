#include "chatloop/http/callback.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "address.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

constexpr TimeUs kAttemptUs = 5 * kSecondUs;
constexpr TimeUs kPauseMinUs = 500 * kMillisecondUs;
constexpr TimeUs kPauseMaxUs = 30 * kSecondUs;
constexpr size_t kAnswerBytesMax = 4096;  // the status line is all that counts

struct Url {
    std::string host;
    std::string port = "80";
    std::string path = "/";
};

Result<Url> parse_url(const std::string& text) {
    const Error bad{ErrorCode::kInvalidRequest,
                    "'" + text.substr(0, kNameBytesMax) + "' is not http://HOST[:PORT][/PATH]"};
    constexpr std::string_view kScheme = "http://";
    const bool plain = std::all_of(text.begin(), text.end(),
                                   [](char c) { return c > ' ' && c < 0x7f; });
    if (!text.starts_with(kScheme) || !plain || text.size() > kPathBytesMax) return bad;
    const std::string rest = text.substr(kScheme.size());
    const size_t slash = std::min(rest.find('/'), rest.size());
    Url url;
    if (slash < rest.size()) url.path = rest.substr(slash);
    url.host = rest.substr(0, slash);
    const size_t bracket = url.host.find(']');
    const size_t colon = url.host.rfind(':');
    if (colon != url.host.npos && (bracket == url.host.npos || colon > bracket)) {
        url.port = url.host.substr(colon + 1);
        url.host.resize(colon);
    }
    if (url.host.size() > 2 && url.host.front() == '[' && url.host.back() == ']')
        url.host = url.host.substr(1, url.host.size() - 2);
    const bool digits = !url.port.empty() && url.port.size() <= 5 &&
                        std::all_of(url.port.begin(), url.port.end(),
                                    [](char c) { return c >= '0' && c <= '9'; });
    if (url.host.empty() || !digits) return bad;
    return url;
}

Result<Address> resolve(const Url& url) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int error = getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found);
    if (error != 0)
        return Error{ErrorCode::kInvalidRequest, url.host + ": " + gai_strerror(error)};
    Address address;
    std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
    address.size = found->ai_addrlen;
    freeaddrinfo(found);
    return address;
}

}  // namespace

struct Callback::Impl {
    std::string text;  // of the URL
    Url url;
    Address address;
    Body body;
    Log log;
    int epoll_fd = -1;
    int socket = -1;
    std::string request;  // what is still to be sent
    bool connected = false;
    std::string answer;
    TimeUs deadline = 0;  // of the attempt, or of the pause
    TimeUs pause_us = kPauseMinUs;
    uint64_t attempts = 0;
    bool done = false;

    void begin(TimeUs now);
    void advance(TimeUs now);
    void connected_now();
    void fail(const std::string& why, TimeUs now);
    void take_answer(TimeUs now);
    void close_socket();
    void watch(uint32_t events);
};

void Callback::Impl::watch(uint32_t events) {
    epoll_event event{};
    event.events = events;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, socket, &event) != 0)
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, socket, &event);
}

void Callback::Impl::close_socket() {
    if (socket >= 0) ::close(socket);  // and out of the epoll set
    socket = -1;
}

void Callback::Impl::begin(TimeUs now) {
    ++attempts;
    deadline = now + kAttemptUs;
    connected = false;
    answer.clear();
    socket = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (socket < 0) return fail(std::strerror(errno), now);
    watch(EPOLLOUT);
    const auto* to = reinterpret_cast<const sockaddr*>(&address.storage);
    if (connect(socket, to, address.size) != 0 && errno != EINPROGRESS)
        fail(std::strerror(errno), now);
}

void Callback::Impl::connected_now() {
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size);
    const std::string content = body(address_text(reinterpret_cast<sockaddr*>(&own), false));
    const bool v6 = url.host.find(':') != url.host.npos;
    request = "POST " + url.path + " HTTP/1.1\r\nHost: " + (v6 ? "[" + url.host + "]" : url.host) +
              ":" + url.port + "\r\nContent-Type: application/json\r\nConnection: close\r\n" +
              "Content-Length: " + std::to_string(content.size()) + "\r\n\r\n" + content;
    connected = true;
}

void Callback::Impl::advance(TimeUs now) {
    if (!connected) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) return fail(std::strerror(error), now);
        connected_now();
    }
    if (!request.empty()) {
        const ssize_t sent = ::send(socket, request.data(), request.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return fail(std::strerror(errno), now);
        if (sent > 0) request.erase(0, static_cast<size_t>(sent));
        if (!request.empty()) return;
        return watch(EPOLLIN);
    }
    take_answer(now);
}

void Callback::Impl::take_answer(TimeUs now) {
    char buffer[kAnswerBytesMax];
    const ssize_t got = ::recv(socket, buffer, sizeof buffer, 0);
    if (got < 0) {
        if (errno != EAGAIN) fail(std::strerror(errno), now);
        return;
    }
    answer.append(buffer, static_cast<size_t>(got));
    const size_t line = answer.find("\r\n");
    if (line == answer.npos) {
        if (got == 0 || answer.size() > kAnswerBytesMax) fail("it says no status", now);
        return;
    }
    const bool is_http = answer.starts_with("HTTP/1.") && line >= 12;
    if (!is_http || answer[9] != '2')
        return fail(answer.substr(0, std::min<size_t>(line, 64)), now);
    close_socket();
    done = true;
    deadline = kNever;
    log('i', "ready message taken by " + text);
}

// The first failure is told, and then one of ten.
void Callback::Impl::fail(const std::string& why, TimeUs now) {
    close_socket();
    if (attempts % 10 == 1)
        log('w', "callback to " + text + " failed: " + why + "; it is tried again");
    deadline = now + pause_us;
    pause_us = std::min(2 * pause_us, kPauseMaxUs);
}

Result<std::unique_ptr<Callback>> Callback::create(const std::string& url, Body body, Log log) {
    auto impl = std::make_unique<Impl>();
    Result<Url> parsed = parse_url(url);
    if (!parsed) return parsed.error();
    Result<Address> address = resolve(*parsed);
    if (!address) return address.error();
    impl->text = url;
    impl->url = std::move(*parsed);
    impl->address = *address;
    impl->body = std::move(body);
    impl->log = std::move(log);
    impl->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    CL_ASSERT(impl->epoll_fd >= 0);
    return std::unique_ptr<Callback>(new Callback(std::move(impl)));
}

Callback::Callback(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Callback::~Callback() {
    impl_->close_socket();
    ::close(impl_->epoll_fd);
}

int Callback::fd() const { return impl_->epoll_fd; }

TimeUs Callback::next_timer() const { return impl_->deadline; }

bool Callback::done() const { return impl_->done; }

void Callback::turn(TimeUs now) {
    if (impl_->done) return;
    if (impl_->socket < 0) {
        if (now >= impl_->deadline) impl_->begin(now);
        return;
    }
    epoll_event event;
    if (epoll_wait(impl_->epoll_fd, &event, 1, 0) > 0) impl_->advance(now);
    if (impl_->socket >= 0 && now >= impl_->deadline) impl_->fail("no answer in time", now);
}

}  // namespace chatloop::http
