#include "chatloop/bus/poll_loop.hpp"

#include <zmq.h>

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

long timeout_ms(TimeUs until, TimeUs now) {
    if (until == kNever) return -1;
    if (until <= now) return 0;
    const TimeUs ms = (until - now + kMillisecondUs - 1) / kMillisecondUs;
    return static_cast<long>(std::min<TimeUs>(ms, INT32_MAX));
}

}  // namespace

struct PollLoop::Impl {
    Entries<SocketEntry> sockets;
    Entries<LinkEntry> links;
    Entries<FdEntry> fds;
    std::vector<zmq_pollitem_t> items;  // of this turn: sockets, fds, then two per link
    TimeUs spin_us = 0;
    TimeUs last_message = 0;
    TimeUs polled_at = 0;  // when the loop last came back from looking at its sockets
    TimeUs gap_max = 0;

    void sweep_all();
    void build_items();
    void wait(LoopHandler& handler);
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
    for (const auto& entry : sockets) items.push_back({entry->socket->handle(), 0, ZMQ_POLLIN, 0});
    for (const auto& entry : fds) items.push_back({nullptr, entry->fd, ZMQ_POLLIN, 0});
    for (const auto& entry : links) {
        if (entry->link->handle() == nullptr) continue;
        // A socket without a backlog is always writable: asking would never let the loop sleep.
        const short wanted = entry->link->backlog() > 0 ? ZMQ_POLLOUT : 0;
        items.push_back({entry->link->handle(), 0, wanted, 0});
        items.push_back({entry->link->monitor_handle(), 0, ZMQ_POLLIN, 0});
    }
}

TimeUs PollLoop::Impl::next_timer(const LoopHandler& handler) const {
    TimeUs next = handler.next_timer();
    for (const auto& entry : links) next = std::min(next, entry->link->next_timer());
    return next;
}

void PollLoop::Impl::wait(LoopHandler& handler) {
    sweep_all();
    build_items();
    const TimeUs before = monotonic_now();
    const TimeUs next = next_timer(handler);
    const bool at_once = handler.has_work() || before - last_message < spin_us;
    const long timeout = at_once ? 0 : timeout_ms(next, before);
    const int rc = zmq_poll(items.data(), static_cast<int>(items.size()), timeout);
    CL_ASSERT(rc >= 0 || zmq_errno() == EINTR);
    if (rc < 0) {  // the items say nothing then
        for (zmq_pollitem_t& item : items) item.revents = 0;
    }
    const TimeUs after = monotonic_now();
    note_gap(before - polled_at);
    // Sleeping for longer than was asked is a gap too; waiting for a message is none.
    if (rc <= 0 && timeout >= 0) note_gap(after - before - timeout * kMillisecondUs);
    polled_at = after;

    size_t i = 0;
    for (const auto& entry : sockets) entry->ready = (items[i++].revents & ZMQ_POLLIN) != 0;
    for (const auto& entry : fds) entry->ready = items[i++].revents != 0;
}

void PollLoop::Impl::serve_sockets(Priority priority, int messages_max) {
    const Entries<SocketEntry> present = sockets;
    for (const auto& entry : present) {
        if (entry->priority != priority || !entry->ready) continue;
        size_t bytes = 0;
        for (int i = 0; i < messages_max && bytes < kDrainBytesMax && !entry->removed; ++i) {
            Envelope envelope;
            if (entry->socket->receive(envelope) != Io::kOk) break;
            bytes += envelope.message.size();
            last_message = polled_at;
            entry->on_message(monotonic_now(), std::move(envelope));
        }
    }
}

void PollLoop::Impl::serve_links() {
    const Entries<LinkEntry> present = links;
    for (const auto& entry : present) {
        if (entry->removed) continue;
        const TimeUs now = monotonic_now();
        const std::vector<bool> changes = entry->link->take_changes(now);
        entry->link->on_timer(now);
        for (bool up : changes) {
            if (!entry->removed) entry->on_link(now, up);
        }
    }
}

void PollLoop::Impl::serve_fds() {
    const Entries<FdEntry> present = fds;
    for (const auto& entry : present) {
        if (entry->ready && !entry->removed) entry->on_readable(monotonic_now());
    }
}

void PollLoop::Impl::flush_links() {
    for (const auto& entry : links) {
        if (!entry->removed) entry->link->flush();
    }
}

PollLoop::PollLoop(TimeUs spin_us) : impl_(std::make_unique<Impl>()) {
    impl_->spin_us = spin_us;
    impl_->last_message = -spin_us;
}

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
        handler.on_tick(monotonic_now());
        impl_->serve_sockets(Priority::kData, kDrainDataMax);
        impl_->flush_links();
        if (handler.has_work()) handler.run_unit(monotonic_now());
        impl_->flush_links();
    }
}

TimeUs PollLoop::take_loop_gap() {
    return std::exchange(impl_->gap_max, 0);
}

}  // namespace chatloop
