// The server's own side: its turn, its bounds, and what its owner calls.
#include "chatloop/http/server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "address.hpp"
#include "chatloop/core/limits.hpp"
#include "server_impl.hpp"

namespace chatloop::http {

namespace {

constexpr TimeUs kSweepUs = kSecondUs;

Result<int> bind_at(const Address& address, const std::string& text, std::string& bound) {
    const auto* wanted = reinterpret_cast<const sockaddr*>(&address.storage);
    const int fd = socket(wanted->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const auto failed = [&](const char* what) {
        const bool in_use = errno == EADDRINUSE;
        const Error error{in_use ? ErrorCode::kPortInUse : ErrorCode::kInvalidRequest,
                          "http " + text + ": " + what + ": " + std::strerror(errno)};
        if (fd >= 0) ::close(fd);
        return error;
    };
    if (fd < 0) return failed("no socket");
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, wanted, address.size) != 0) return failed("cannot bind");
    if (::listen(fd, SOMAXCONN) != 0) return failed("cannot listen");
    sockaddr_storage real{};
    socklen_t size = sizeof real;
    getsockname(fd, reinterpret_cast<sockaddr*>(&real), &size);
    bound = address_text(reinterpret_cast<sockaddr*>(&real), true);
    return fd;
}

// Another process may take a port at any time: only binding shows whether it is free.
Result<int> bind_listener(const std::string& text, std::string& bound) {
    Result<Address> address = parse_address(text);
    if (!address) return address.error();
    Result<int> fd = bind_at(*address, text, bound);
    if (!address->or_above) return fd;
    for (int tried = 1; tried < kHttpPortTriesMax && address->port < UINT16_MAX; ++tried) {
        if (fd.ok() || fd.error().code != ErrorCode::kPortInUse) return fd;
        set_port(*address, static_cast<uint16_t>(address->port + 1));
        fd = bind_at(*address, text, bound);
    }
    return fd;
}

}  // namespace

Status check_address(const std::string& address) {
    const Result<Address> parsed = parse_address(address);
    if (!parsed) return parsed.error();
    return Ok{};
}

Result<std::unique_ptr<Server>> Server::listen(const std::string& address, ServerEvents events,
                                               TimeUs now) {
    auto impl = std::make_unique<Impl>();
    impl->events = std::move(events);
    impl->now = now;
    impl->swept_at = now;
    Result<int> fd = bind_listener(address, impl->address);
    if (!fd) return fd.error();
    impl->listen_fd = *fd;
    impl->side_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    CL_ASSERT(impl->side_epoll_fd >= 0);
    impl->daemon = start_daemon(*impl);
    if (impl->daemon == nullptr)
        return Error{ErrorCode::kInternal, "http " + address + ": libmicrohttpd does not start"};
    impl->mhd_epoll_fd = MHD_get_daemon_info(impl->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() = default;

// libmicrohttpd must be stopped with nothing suspended; its callbacks find nobody to tell.
Server::Impl::~Impl() {
    events = {};
    for (auto& [id, exchange] : exchanges) {
        exchange->closes = true;
        resume(*exchange);
    }
    if (daemon != nullptr) {
        MHD_run(daemon);
        MHD_stop_daemon(daemon);  // closes the listener, too
    } else if (listen_fd >= 0) {
        ::close(listen_fd);
    }
    if (side_epoll_fd >= 0) ::close(side_epoll_fd);
}

const std::string& Server::address() const { return impl_->address; }

std::array<int, 2> Server::fds() const { return {impl_->mhd_epoll_fd, impl_->side_epoll_fd}; }

const ServerCounters& Server::counters() const { return impl_->counters; }

size_t Server::waiting_bytes() const { return impl_->streams_bytes; }

bool Server::idle() const { return impl_->exchanges.empty(); }

// ---- a turn ----

void Server::turn(TimeUs now) {
    Impl& impl = *impl_;
    impl.now = now;
    impl.dirty = false;
    impl.look_aside();
    MHD_run(impl.daemon);
    if (now - impl.swept_at >= kSweepUs) impl.sweep();
    impl.tell_gone();
    impl.hand_over();
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    const bool timed = MHD_get_timeout(impl.daemon, &wait_ms) == MHD_YES;
    if (timed && wait_ms == 0) impl.dirty = true;
    impl.mhd_timer_at = timed ? now + static_cast<TimeUs>(wait_ms) * kMillisecondUs : kNever;
}

bool Server::has_work() const {
    return impl_->dirty || !impl_->arrived.empty() || !impl_->gone.empty();
}

TimeUs Server::next_timer() const {
    const TimeUs sweep_at = impl_->connections.empty() ? kNever : impl_->swept_at + kSweepUs;
    return std::min(impl_->mhd_timer_at, sweep_at);
}

// Connections whose peer has closed. libmicrohttpd does not see it while a request is suspended.
void Server::Impl::look_aside() {
    constexpr int kEvents = 64;
    epoll_event found[kEvents];
    const int count = epoll_wait(side_epoll_fd, found, kEvents, 0);
    for (int i = 0; i < count; ++i) {
        const auto connection = connections.find(found[i].data.u64);
        if (connection == connections.end()) continue;
        connection->second->peer_closed = true;
        Exchange* exchange = connection->second->exchange;
        if (exchange != nullptr && exchange->handed_over && !exchange->over) lose(*exchange);
    }
    if (count == kEvents) dirty = true;
}

void Server::Impl::hand_over() {
    size_t bytes = 0;
    for (int i = 0; i < kHttpRequestsPerTurn && bytes < kHttpTurnBytesMax && !arrived.empty();
         ++i) {
        const ExchangeId id = arrived.front();
        arrived.pop_front();
        Exchange* exchange = find(id);
        if (exchange == nullptr || exchange->over) continue;
        bytes += exchange->request.body.size();
        drop_body(*exchange);
        exchange->request.body.shrink_to_fit();
        events.on_request(id, std::move(exchange->request), now);
    }
}

void Server::Impl::tell_gone() {
    const std::vector<ExchangeId> told = std::exchange(gone, {});
    for (const ExchangeId id : told) events.on_gone(id, now);
}

// What only time shows: who is idle, sends or reads too slowly.
void Server::Impl::sweep() {
    swept_at = now;
    for (auto& [id, connection] : connections) {
        Exchange* exchange = connection->exchange;
        if (exchange == nullptr) {
            if (now - connection->since >= kHttpIdleUs) close(*connection);
        } else if (!exchange->handed_over) {
            if (now - connection->since < kHttpBodyUs) continue;
            if (!exchange->refused) ++counters.refused;
            close(*connection);
        } else if (exchange->waiting() > 0 &&
                   now - exchange->progress_at >= kHttpStallUs) {
            ++counters.slow_clients;
            if (!exchange->over) lose(*exchange);
            close(*connection);
        }
    }
}

// Over all streams too much waits: who has read nothing for the longest pays.
void Server::Impl::shed_streams() {
    while (streams_bytes > kHttpStreamsBytesMax) {
        Exchange* worst = nullptr;
        for (auto& [id, exchange] : exchanges) {
            const bool waits = exchange->waiting() > 0 && !exchange->closes;
            if (waits && (worst == nullptr || exchange->progress_at < worst->progress_at))
                worst = exchange.get();
        }
        if (worst == nullptr) return;
        ++counters.slow_clients;
        streams_bytes -= worst->waiting();
        worst->sent = worst->stream.size();
        worst->over ? abort_closed(*worst) : lose(*worst);
    }
}

// ---- exchanges ----

Exchange* Server::Impl::find(ExchangeId id) {
    const auto found = exchanges.find(id);
    return found == exchanges.end() ? nullptr : found->second.get();
}

void Server::Impl::resume(Exchange& exchange) {
    dirty = true;
    if (!exchange.suspended) return;
    exchange.suspended = false;
    MHD_resume_connection(exchange.handle);
}

void Server::Impl::suspend(Exchange& exchange) {
    exchange.suspended = true;
    MHD_suspend_connection(exchange.handle);
}

void Server::Impl::lose(Exchange& exchange) {
    CL_ASSERT(exchange.handed_over && !exchange.over);
    exchange.over = true;
    ++counters.clients_gone;
    gone.push_back(exchange.id);
    abort_closed(exchange);
}

void Server::Impl::abort_closed(Exchange& exchange) {
    exchange.closes = true;
    resume(exchange);
}

void Server::Impl::close(Connection& connection) {
    shutdown(connection.fd, SHUT_RDWR);
    dirty = true;
}

void Server::Impl::drop_body(Exchange& exchange) {
    bodies_bytes -= exchange.request.body.size();
}

void Server::respond(ExchangeId id, Response response) {
    Exchange* exchange = impl_->find(id);
    if (exchange == nullptr || exchange->over) return;
    CL_ASSERT(exchange->handed_over && !exchange->streams);
    exchange->response = std::move(response);
    exchange->over = true;
    impl_->resume(*exchange);
}

void Server::start_stream(ExchangeId id, Response head) {
    Exchange* exchange = impl_->find(id);
    if (exchange == nullptr || exchange->over) return;
    CL_ASSERT(exchange->handed_over && !exchange->streams);
    exchange->streams = true;
    exchange->progress_at = impl_->now;
    exchange->stream = std::move(head.body);
    impl_->streams_bytes += exchange->stream.size();
    head.body.clear();
    exchange->response = std::move(head);
    impl_->resume(*exchange);
}

void Server::write(ExchangeId id, std::string_view bytes) {
    Exchange* exchange = impl_->find(id);
    if (exchange == nullptr || exchange->over) return;
    CL_ASSERT(exchange->streams);
    if (exchange->waiting() + bytes.size() > kHttpStreamBytesMax) {
        ++impl_->counters.slow_clients;
        return impl_->lose(*exchange);
    }
    if (exchange->waiting() == 0) exchange->progress_at = impl_->now;
    exchange->stream.append(bytes);
    impl_->streams_bytes += bytes.size();
    impl_->shed_streams();
    impl_->resume(*exchange);
}

void Server::end(ExchangeId id) {
    Exchange* exchange = impl_->find(id);
    if (exchange == nullptr || exchange->over) return;
    CL_ASSERT(exchange->streams);
    exchange->ended = true;
    exchange->over = true;
    impl_->resume(*exchange);
}

void Server::abort(ExchangeId id) {
    Exchange* exchange = impl_->find(id);
    if (exchange == nullptr || exchange->over) return;
    exchange->over = true;
    impl_->abort_closed(*exchange);
}

}  // namespace chatloop::http
