// One ZeroMQ socket with the options of its use. Nothing blocks, nothing throws; what a peer did is
// a return value, and a misuse is asserted.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "chatloop/bus/context.hpp"
#include "chatloop/bus/message.hpp"
#include "chatloop/core/result.hpp"

namespace chatloop {

enum class SocketKind : uint8_t { kPull, kPush, kRouter, kDealer };
// Decides sizes and timeouts (docs/protocol.md, the table of sockets).
enum class SocketUse : uint8_t { kData, kControl, kFront };

enum class Io : uint8_t {
    kOk,
    kWouldBlock,   // nothing to receive; no connected peer, or its queue is full
    kUnreachable,  // ROUTER: no peer of that routing id is connected
};

struct Envelope {
    std::string peer;  // ROUTER: the sender's routing id; else empty
    Message message;
};

// Whether it has the form of one (Socket::bind tells which); kInvalidRequest.
enum class EndpointUse : uint8_t { kBind, kConnect };
Status check_endpoint(const std::string& endpoint, EndpointUse use);

class Socket {
public:
    // `routing_id` is what a ROUTER on the other side knows a DEALER by.
    Socket(Context& context, SocketKind kind, SocketUse use, const std::string& routing_id = "");
    // Null when the process has no descriptor or no socket left.
    static std::unique_ptr<Socket> make(Context& context, SocketKind kind, SocketUse use);
    ~Socket();
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    // Endpoints are tcp://<IPv4 address>:<port>, ipc://<path> or inproc://<name>: a name would be
    // looked up on the I/O thread and stop every socket of the process. bind() takes `*` for the
    // port and for the address. kPortInUse when another process has it, kInvalidRequest for all
    // else that cannot be bound. An ipc path is taken over from whoever bound it before.
    Status bind(const std::string& endpoint);
    Status connect(const std::string& endpoint);
    std::string last_endpoint() const;  // with the port that `*` became

    // The message is gone after kOk and untouched otherwise. Its size is within the bound of the
    // use.
    Io send(Message& message);
    Io send_to(const std::string& peer, Message& message);  // ROUTER
    Io receive(Envelope& envelope);

    // Messages of a wrong number of parts, and those that the owner of the socket does not take.
    uint64_t malformed() const { return malformed_; }
    void note_malformed() { ++malformed_; }
    void* handle() const { return handle_; }

    // How a loop waits: what comes to a settled socket makes its descriptor readable. A receive()
    // that finds nothing settles it, every other call ends that.
    int fd() const { return fd_; }
    bool settled() const { return settled_; }
    // Takes in what the descriptor announced, on a socket that does not receive.
    void take_news();

private:
    Socket(void* handle, SocketKind kind, SocketUse use, const std::string& routing_id);

    enum class Part : uint8_t { kTaken, kNone, kDropped };
    Part receive_parts(Envelope& envelope);

    SocketKind kind_;
    size_t bytes_max_;
    void* handle_;
    int fd_;
    bool settled_ = false;
    uint64_t malformed_ = 0;
};

}  // namespace chatloop
