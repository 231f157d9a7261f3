#include "chatloop/bus/socket.hpp"

#include <arpa/inet.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <charconv>

#include "chatloop/core/limits.hpp"

namespace chatloop {
namespace {

// Times in ms, keepalive in s. Unacknowledged data ends a connection after max_rt_ms; idle ones are
// probed by keepalive. ZMTP heartbeats stay off: with a full receive queue they end healthy links.
struct Options {
    int64_t message_bytes_max;
    int send_max;  // messages that wait per connection
    int receive_max;
    int reconnect_ms;
    int reconnect_ms_max;
    int connect_timeout_ms;
    int handshake_ms;
    int max_rt_ms;
    int keepalive_idle_s;
    int keepalive_interval_s;
    int linger_ms;  // accepted connections keep what the socket had when it was bound
};

constexpr int kKeepaliveProbes = 3;
// What a process says last (FENCE, BYE, DONE) may take that long to leave; frames are never waited
// for.
constexpr int kFarewellMs = 500;

const Options& options_of(SocketUse use) {
    static constexpr Options kData = {kFrameBytesMax, kDataSendMax, kDataReceiveMax, 50, 1000,
                                      1000, 2000, 3000, 5, 2, 0};
    static constexpr Options kControl = {
        kControlBytesMax, kControlSendMax, kControlReceiveMax, 50, 1000, 1000, 2000, 2000, 5, 2,
        kFarewellMs};
    // A client that does not read acknowledges nothing new: that is no reason to end its connection
    // before its egress gives up.
    static constexpr Options kFront = {
        kFrontBytesMax, kFrontSendMax, kFrontReceiveMax, 200, 5000, 2000, 5000,
        int{kEgressStallUs / 1000}, 30, 10, kFarewellMs};
    switch (use) {
        case SocketUse::kData: return kData;
        case SocketUse::kControl: return kControl;
        case SocketUse::kFront: return kFront;
    }
    CL_ASSERT(false);
    return kData;
}

int zmq_type(SocketKind kind) {
    switch (kind) {
        case SocketKind::kPull: return ZMQ_PULL;
        case SocketKind::kPush: return ZMQ_PUSH;
        case SocketKind::kRouter: return ZMQ_ROUTER;
        case SocketKind::kDealer: return ZMQ_DEALER;
    }
    CL_ASSERT(false);
    return 0;
}

template <class T>
void set_option(void* socket, int option, T value) {
    CL_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

void set_options(void* socket, SocketKind kind, const Options& options) {
    set_option(socket, ZMQ_LINGER, options.linger_ms);
    set_option(socket, ZMQ_IPV6, 0);
    set_option(socket, ZMQ_SNDHWM, options.send_max);
    set_option(socket, ZMQ_RCVHWM, options.receive_max);
    set_option(socket, ZMQ_MAXMSGSIZE, options.message_bytes_max);
    set_option(socket, ZMQ_RECONNECT_IVL, options.reconnect_ms);
    set_option(socket, ZMQ_RECONNECT_IVL_MAX, options.reconnect_ms_max);
    set_option(socket, ZMQ_CONNECT_TIMEOUT, options.connect_timeout_ms);
    set_option(socket, ZMQ_HANDSHAKE_IVL, options.handshake_ms);
    set_option(socket, ZMQ_HEARTBEAT_IVL, 0);
    set_option(socket, ZMQ_TCP_MAXRT, options.max_rt_ms);
    set_option(socket, ZMQ_TCP_KEEPALIVE, 1);
    set_option(socket, ZMQ_TCP_KEEPALIVE_IDLE, options.keepalive_idle_s);
    set_option(socket, ZMQ_TCP_KEEPALIVE_INTVL, options.keepalive_interval_s);
    set_option(socket, ZMQ_TCP_KEEPALIVE_CNT, kKeepaliveProbes);
    if (kind == SocketKind::kPush || kind == SocketKind::kDealer) {
        set_option(socket, ZMQ_IMMEDIATE, 1);  // nothing queues for a peer that is not connected
    }
    if (kind == SocketKind::kRouter) {
        set_option(socket, ZMQ_ROUTER_MANDATORY, 1);
        set_option(socket, ZMQ_ROUTER_HANDOVER, 1);
    }
}

// ---- messages: a received one is held by its zmq_msg_t on the heap, as is one to be sent ----

void close_held(void*, void* hint) {
    auto* held = static_cast<zmq_msg_t*>(hint);
    zmq_msg_close(held);
    delete held;
}

Message hold(zmq_msg_t* held) {
    return Message(static_cast<uint8_t*>(zmq_msg_data(held)), zmq_msg_size(held), close_held, held);
}

zmq_msg_t* to_held(Message& message) {
    const Message::Released released = message.release();
    if (released.free == close_held) return static_cast<zmq_msg_t*>(released.hint);
    auto* held = new zmq_msg_t;
    if (released.free == nullptr) {  // an empty message has nothing to give away
        zmq_msg_init(held);
    } else {
        CL_ASSERT(zmq_msg_init_data(held, released.data, released.size, released.free,
                                    released.hint) == 0);
    }
    return held;
}

// Sends what `message` holds, or gives it back.
Io send_message(void* socket, Message& message) {
    zmq_msg_t* held = to_held(message);
    int sent;
    do {
        sent = zmq_msg_send(held, socket, ZMQ_DONTWAIT);
    } while (sent < 0 && zmq_errno() == EINTR);
    if (sent >= 0) {
        delete held;  // sending has emptied it
        return Io::kOk;
    }
    const int error = zmq_errno();
    message = hold(held);
    CL_ASSERT(error == EAGAIN || error == EHOSTUNREACH);
    return error == EAGAIN ? Io::kWouldBlock : Io::kUnreachable;
}

// One part, or null when none is there.
zmq_msg_t* receive_part(void* socket) {
    auto* held = new zmq_msg_t;
    zmq_msg_init(held);
    int received;
    do {
        received = zmq_msg_recv(held, socket, ZMQ_DONTWAIT);
    } while (received < 0 && zmq_errno() == EINTR);
    if (received >= 0) return held;
    CL_ASSERT(zmq_errno() == EAGAIN);
    close_held(nullptr, held);
    return nullptr;
}

// The parts of a message arrive together, so the rest of one is always there.
void drop_rest(void* socket, bool more) {
    while (more) {
        zmq_msg_t* part = receive_part(socket);
        CL_ASSERT(part != nullptr);
        more = zmq_msg_more(part) != 0;
        close_held(nullptr, part);
    }
}

bool is_port(std::string_view text) {
    uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    return error == std::errc() && end == text.data() + text.size() && port != 0;
}

bool is_address(const std::string& text) {
    in_addr address;
    return inet_pton(AF_INET, text.c_str(), &address) == 1;
}

}  // namespace

Status check_endpoint(const std::string& endpoint, EndpointUse use) {
    const bool wild = use == EndpointUse::kBind;  // `*` stands for address or port
    const Error error{ErrorCode::kInvalidRequest,
                      "endpoint '" + endpoint +
                          "' is neither tcp://<IPv4 address>:<port> nor ipc://<path>"};
    constexpr std::string_view kTcp = "tcp://";
    if (endpoint.size() > kNameBytesMax || endpoint.find('\0') != std::string::npos) return error;
    for (std::string_view scheme : {"ipc://", "inproc://"}) {
        if (endpoint.starts_with(scheme) && endpoint.size() > scheme.size()) return Ok{};
    }
    const size_t colon = endpoint.rfind(':');
    if (!endpoint.starts_with(kTcp) || colon < kTcp.size()) return error;
    const std::string address = endpoint.substr(kTcp.size(), colon - kTcp.size());
    const std::string_view port = std::string_view(endpoint).substr(colon + 1);
    if (!is_address(address) && !(wild && address == "*")) return error;
    if (!is_port(port) && !(wild && port == "*")) return error;
    return Ok{};
}

std::unique_ptr<Socket> Socket::make(Context& context, SocketKind kind, SocketUse use) {
    void* handle = zmq_socket(context.handle(), zmq_type(kind));
    if (handle == nullptr) return nullptr;
    return std::unique_ptr<Socket>(new Socket(handle, kind, use, ""));
}

Socket::Socket(Context& context, SocketKind kind, SocketUse use, const std::string& routing_id)
    : Socket(zmq_socket(context.handle(), zmq_type(kind)), kind, use, routing_id) {}

Socket::Socket(void* handle, SocketKind kind, SocketUse use, const std::string& routing_id)
    : kind_(kind),
      bytes_max_(static_cast<size_t>(options_of(use).message_bytes_max)),
      handle_(handle) {
    CL_ASSERT(handle_ != nullptr);
    set_options(handle_, kind, options_of(use));
    size_t size = sizeof fd_;
    CL_ASSERT(zmq_getsockopt(handle_, ZMQ_FD, &fd_, &size) == 0);
    if (!routing_id.empty()) {
        CL_ASSERT(zmq_setsockopt(handle_, ZMQ_ROUTING_ID, routing_id.data(), routing_id.size()) ==
                  0);
    }
}

Socket::~Socket() {
    CL_ASSERT(zmq_close(handle_) == 0);
}

Status Socket::bind(const std::string& endpoint) {
    settled_ = false;
    const Status valid = check_endpoint(endpoint, EndpointUse::kBind);
    if (!valid.ok()) return valid;
    if (zmq_bind(handle_, endpoint.c_str()) == 0) return Ok{};
    const int error = zmq_errno();
    if (error == EADDRINUSE) {
        return Error{ErrorCode::kPortInUse,
                     endpoint + " is in use by another process; stop it or choose another port"};
    }
    if (error == EADDRNOTAVAIL || error == ENODEV) {
        return Error{ErrorCode::kInvalidRequest,
                     endpoint + " is no address of this host; bind one that `ip address` lists"};
    }
    return Error{ErrorCode::kInvalidRequest,
                 "cannot bind " + endpoint + ": " + zmq_strerror(error)};
}

Status Socket::connect(const std::string& endpoint) {
    settled_ = false;
    const Status valid = check_endpoint(endpoint, EndpointUse::kConnect);
    if (!valid.ok()) return valid;
    if (zmq_connect(handle_, endpoint.c_str()) == 0) return Ok{};
    return Error{ErrorCode::kInvalidRequest,
                 "cannot connect to " + endpoint + ": " + zmq_strerror(zmq_errno())};
}

std::string Socket::last_endpoint() const {
    std::array<char, kNameBytesMax + 1> text;
    size_t size = text.size();
    CL_ASSERT(zmq_getsockopt(handle_, ZMQ_LAST_ENDPOINT, text.data(), &size) == 0);
    return text.data();
}

Io Socket::send(Message& message) {
    CL_ASSERT(kind_ != SocketKind::kRouter && kind_ != SocketKind::kPull);
    CL_ASSERT(message.size() <= bytes_max_);  // the peer would close the connection without a word
    settled_ = false;
    return send_message(handle_, message);
}

Io Socket::send_to(const std::string& peer, Message& message) {
    CL_ASSERT(kind_ == SocketKind::kRouter);
    CL_ASSERT(message.size() <= bytes_max_);
    settled_ = false;
    int sent;
    do {
        sent = zmq_send(handle_, peer.data(), peer.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT);
    } while (sent < 0 && zmq_errno() == EINTR);
    if (sent < 0) {
        CL_ASSERT(zmq_errno() == EAGAIN || zmq_errno() == EHOSTUNREACH);
        return zmq_errno() == EAGAIN ? Io::kWouldBlock : Io::kUnreachable;
    }
    const Io body = send_message(handle_, message);
    // Room is decided with the first part; a peer that is gone since then swallows the second.
    CL_ASSERT(body == Io::kOk);
    return body;
}

Io Socket::receive(Envelope& envelope) {
    settled_ = false;
    // What a peer of ill will sends is skipped, but never without bound within one call.
    for (int i = 0; i < kDrainControlMax; ++i) {
        switch (receive_parts(envelope)) {
            case Part::kTaken: return Io::kOk;
            case Part::kNone: settled_ = true; return Io::kWouldBlock;
            case Part::kDropped: ++malformed_; break;
        }
    }
    return Io::kWouldBlock;
}

void Socket::take_news() {
    int events = 0;
    size_t size = sizeof events;
    CL_ASSERT(zmq_getsockopt(handle_, ZMQ_EVENTS, &events, &size) == 0);
}

Socket::Part Socket::receive_parts(Envelope& envelope) {
    CL_ASSERT(kind_ != SocketKind::kPush);
    zmq_msg_t* part = receive_part(handle_);
    if (part == nullptr) return Part::kNone;
    envelope.peer.clear();
    if (kind_ == SocketKind::kRouter) {
        envelope.peer.assign(static_cast<const char*>(zmq_msg_data(part)), zmq_msg_size(part));
        const bool more = zmq_msg_more(part) != 0;
        close_held(nullptr, part);
        if (!more) return Part::kDropped;
        part = receive_part(handle_);
        CL_ASSERT(part != nullptr);
    }
    const bool more = zmq_msg_more(part) != 0;
    envelope.message = hold(part);
    drop_rest(handle_, more);
    return more ? Part::kDropped : Part::kTaken;
}

}  // namespace chatloop
