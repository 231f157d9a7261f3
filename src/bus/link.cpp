#include "chatloop/bus/link.hpp"

#include <zmq.h>

#include <cerrno>
#include <cstring>

namespace chatloop {
namespace {

constexpr int kMonitored = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

// One part of a monitor's message; false when none is there.
bool receive_part(void* monitor, zmq_msg_t& part) {
    int received;
    do {
        received = zmq_msg_recv(&part, monitor, ZMQ_DONTWAIT);
    } while (received < 0 && zmq_errno() == EINTR);
    CL_ASSERT(received >= 0 || zmq_errno() == EAGAIN);
    return received >= 0;
}

// The next event, or 0. A message is [event u16, value u32] and an address, which is not needed.
int next_event(void* monitor) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    int event = 0;
    if (receive_part(monitor, part)) {
        CL_ASSERT(zmq_msg_size(&part) >= sizeof(uint16_t));
        uint16_t number;
        std::memcpy(&number, zmq_msg_data(&part), sizeof number);
        event = number;
        CL_ASSERT(zmq_msg_more(&part) && receive_part(monitor, part));
    }
    zmq_msg_close(&part);
    return event;
}

}  // namespace

Link::Link(Context& context, std::string endpoint, TimeUs now)
    : context_(context), endpoint_(std::move(endpoint)) {
    open(now);
}

Link::~Link() {
    close();
}

void Link::open(TimeUs now) {
    handshake_deadline_ = now + kHandshakeTimeoutUs;
    socket_ = Socket::make(context_, SocketKind::kPush, SocketUse::kData);
    monitor_ = zmq_socket(context_.handle(), ZMQ_PAIR);
    const std::string address = "inproc://link-monitor-" + std::to_string(context_.next_id());
    if (socket_ == nullptr || monitor_ == nullptr ||
        zmq_socket_monitor(socket_->handle(), address.c_str(), kMonitored) != 0)
        return close();  // no descriptor is left
    CL_ASSERT(zmq_connect(monitor_, address.c_str()) == 0);
    size_t size = sizeof monitor_fd_;
    CL_ASSERT(zmq_getsockopt(monitor_, ZMQ_FD, &monitor_fd_, &size) == 0);
    settled_ = false;
    // Peers say where they are: what cannot be connected is a link that does not come up. Names
    // within the process are ours: a peer must not reach the monitor of a link.
    if (!endpoint_.starts_with("inproc://")) static_cast<void>(socket_->connect(endpoint_));
    ++sockets_made_;
}

void Link::close() {
    // In this order: an event for a monitor that nobody reads would block the I/O thread.
    if (socket_ != nullptr) CL_ASSERT(zmq_socket_monitor(socket_->handle(), nullptr, 0) == 0);
    if (monitor_ != nullptr) CL_ASSERT(zmq_close(monitor_) == 0);
    socket_.reset();
    monitor_ = nullptr;
    monitor_fd_ = -1;
    settled_ = true;
}

bool Link::send(Message frame) {
    if (backlog_.size() == kBacklogMax) return false;
    backlog_.push_back(std::move(frame));
    flush();
    if (up_ && !backlog_.empty()) ++blocked_;
    return true;
}

void Link::flush() {
    if (socket_ == nullptr) return;
    while (!backlog_.empty() && socket_->send(backlog_.front()) == Io::kOk) backlog_.pop_front();
}

std::vector<bool> Link::take_changes(TimeUs now) {
    std::vector<bool> changes;
    if (monitor_ == nullptr) return changes;
    settled_ = true;
    while (const int event = next_event(monitor_)) {
        if (event == ZMQ_EVENT_CONNECTED) continue;  // not up before the handshake
        const bool up = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (up == up_) continue;
        up_ = up;
        changes.push_back(up);
        if (!up) handshake_deadline_ = now + kHandshakeTimeoutUs;
    }
    return changes;
}

void Link::on_timer(TimeUs now) {
    if (up_ || now < handshake_deadline_) return;
    close();
    open(now);
}

}  // namespace chatloop
