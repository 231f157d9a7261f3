#include "chatloop/bus/poll_loop.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "chatloop/bus/system.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {
namespace {

// What the loop watches. Handlers may remove an entry while it is being served, so entries are
// shared and marked; nothing touches a removed one's socket, link or descriptor.
struct SocketEntry {
    Socket* socket;
    Priority priority;
    PollLoop::OnMessage on_message;
    bool removed = false;
    bool ready = false;
};
struct LinkEntry {
    Link* link;
    PollLoop::OnLink on_link;
    bool removed = false;
    bool ready = false;  // its monitor
};
struct FdEntry {
    int fd;
    PollLoop::OnReadable on_readable;
    bool removed = false;
    bool ready = false;
};

template <class Entry>
using Entries = std::vector<std::shared_ptr<Entry>>;

template <class Entry, class Match>
void mark_removed(Entries<Entry>& entries, Match match) {
    for (const auto& entry : entries) {
        if (!entry->removed && match(*entry)) entry->removed = true;
    }
}

template <class Entry>
void sweep(Entries<Entry>& entries) {
    std::erase_if(entries, [](const auto& entry) { return entry->removed; });
}

int timeout_ms(TimeUs until, TimeUs now) {
    if (until == kNever) return -1;
    if (until <= now) return 0;
    const TimeUs ms = (until - now + kMillisecondUs - 1) / kMillisecondUs;
    return static_cast<int>(std::min<TimeUs>(ms, INT32_MAX));
}

}  // namespace

struct PollLoop::Impl {
    Entries<SocketEntry> sockets;
    Entries<LinkEntry> links;
    Entries<FdEntry> fds;
    std::vector<pollfd> items;  // of this turn: sockets, fds, then two per link
    TimeUs now = 0;        // read again after every handler that may have taken long
    TimeUs polled_at = 0;  // when the loop last came back from looking at its sockets
    TimeUs gap_max = 0;

    void sweep_all();
    void build_items();
    bool settled() const;
    void wait(LoopHandler& handler);
    void take_events();
    TimeUs next_timer(const LoopHandler& handler) const;
    void serve_sockets(Priority priority, int messages_max);
    void serve_links();
    void serve_fds();
    void flush_links();
    void note_gap(TimeUs gap) { gap_max = std::max(gap_max, gap); }
};

void PollLoop::Impl::sweep_all() {
    sweep(sockets);
    sweep(links);
    sweep(fds);
}

void PollLoop::Impl::build_items() {
    items.clear();
    for (const auto& entry : sockets) items.push_back({entry->socket->fd(), POLLIN, 0});
    for (const auto& entry : fds) items.push_back({entry->fd, POLLIN, 0});
    for (const auto& entry : links) {  // a negative descriptor is passed over
        const Socket* socket = entry->link->socket();
        items.push_back({socket == nullptr ? -1 : socket->fd(), POLLIN, 0});
        items.push_back({entry->link->monitor_fd(), POLLIN, 0});
    }
}

bool PollLoop::Impl::settled() const {
    return std::all_of(sockets.begin(), sockets.end(),
                       [](const auto& entry) { return entry->socket->settled(); }) &&
           std::all_of(links.begin(), links.end(),
                       [](const auto& entry) { return entry->link->settled(); });
}

TimeUs PollLoop::Impl::next_timer(const LoopHandler& handler) const {
    TimeUs next = handler.next_timer();
    for (const auto& entry : links) next = std::min(next, entry->link->next_timer());
    return next;
}

// One poll() of descriptors a turn. zmq_poll asks every socket beside it, by several system calls
// each, and a turn is a layer of one row: tens of microseconds.
void PollLoop::Impl::wait(LoopHandler& handler) {
    sweep_all();
    build_items();
    const TimeUs before = monotonic_now();
    const TimeUs next = next_timer(handler);
    const bool at_once = handler.has_work() || !settled();
    const int timeout = at_once ? 0 : timeout_ms(next, before);
    const int rc = poll(items.data(), items.size(), timeout);
    CL_ASSERT(rc >= 0 || errno == EINTR);
    if (rc < 0) {  // the items say nothing then
        for (pollfd& item : items) item.revents = 0;
    }
    now = monotonic_now();
    note_gap(before - polled_at);
    // Sleeping for longer than was asked is a gap too; waiting for a message is none.
    if (rc <= 0 && timeout >= 0) note_gap(now - before - timeout * kMillisecondUs);
    polled_at = now;
    take_events();
}

void PollLoop::Impl::take_events() {
    size_t i = 0;
    const auto readable = [&] { return items[i++].revents != 0; };
    for (const auto& entry : sockets) entry->ready = readable() || !entry->socket->settled();
    for (const auto& entry : fds) entry->ready = readable();
    for (const auto& entry : links) {
        if (readable()) entry->link->socket()->take_news();
        entry->ready = readable() || !entry->link->settled();
    }
}

void PollLoop::Impl::serve_sockets(Priority priority, int messages_max) {
    const size_t present = sockets.size();  // handlers add behind them
    for (size_t s = 0; s < present; ++s) {
        const std::shared_ptr<SocketEntry> entry = sockets[s];
        if (entry->priority != priority || !entry->ready) continue;
        size_t bytes = 0;
        for (int i = 0; i < messages_max && bytes < kDrainBytesMax && !entry->removed; ++i) {
            Envelope envelope;
            if (entry->socket->receive(envelope) != Io::kOk) break;
            bytes += envelope.message.size();
            entry->on_message(monotonic_now(), std::move(envelope));
            now = monotonic_now();
        }
    }
}

void PollLoop::Impl::serve_links() {
    const size_t present = links.size();
    for (size_t l = 0; l < present; ++l) {
        const std::shared_ptr<LinkEntry> entry = links[l];
        if (entry->removed) continue;
        if (entry->ready) {
            for (bool up : entry->link->take_changes(now)) {
                if (!entry->removed) entry->on_link(now, up);
            }
        }
        if (!entry->removed && now >= entry->link->next_timer()) entry->link->on_timer(now);
    }
}

void PollLoop::Impl::serve_fds() {
    const size_t present = fds.size();
    for (size_t f = 0; f < present; ++f) {
        const std::shared_ptr<FdEntry> entry = fds[f];
        if (entry->ready && !entry->removed) entry->on_readable(now);
    }
}

void PollLoop::Impl::flush_links() {
    for (const auto& entry : links) {
        if (!entry->removed) entry->link->flush();
    }
}

PollLoop::PollLoop() : impl_(std::make_unique<Impl>()) {}

PollLoop::~PollLoop() = default;

void PollLoop::add_socket(Socket& socket, Priority priority, OnMessage on_message) {
    impl_->sockets.push_back(
        std::make_shared<SocketEntry>(SocketEntry{&socket, priority, std::move(on_message)}));
}

void PollLoop::add_link(Link& link, OnLink on_link) {
    impl_->links.push_back(std::make_shared<LinkEntry>(LinkEntry{&link, std::move(on_link)}));
}

void PollLoop::add_fd(int fd, OnReadable on_readable) {
    impl_->fds.push_back(std::make_shared<FdEntry>(FdEntry{fd, std::move(on_readable)}));
}

void PollLoop::remove_socket(Socket& socket) {
    mark_removed(impl_->sockets, [&](const SocketEntry& e) { return e.socket == &socket; });
}

void PollLoop::remove_link(Link& link) {
    mark_removed(impl_->links, [&](const LinkEntry& e) { return e.link == &link; });
}

void PollLoop::remove_fd(int fd) {
    mark_removed(impl_->fds, [&](const FdEntry& e) { return e.fd == fd; });
}

void PollLoop::run(LoopHandler& handler) {
    impl_->polled_at = monotonic_now();
    while (!handler.finished()) {
        impl_->wait(handler);
        impl_->serve_sockets(Priority::kControl, kDrainControlMax);
        impl_->serve_links();
        impl_->serve_fds();
        handler.on_tick(impl_->now);
        impl_->serve_sockets(Priority::kData, kDrainDataMax);
        impl_->flush_links();
        if (handler.has_work()) handler.run_unit(impl_->now);
        impl_->flush_links();
    }
}

TimeUs PollLoop::take_loop_gap() {
    return std::exchange(impl_->gap_max, 0);
}

}  // namespace chatloop
