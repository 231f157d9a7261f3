// A data link to one peer: a PUSH socket that connects to one endpoint, so that it is an addressed
// pipe; a monitor that tells when it goes up and down; and a bounded queue for frames that it
// does not take at once.
//
//     connecting --handshake--> up --disconnect--> connecting
//         ^------- 3 s without a handshake: another socket -------'
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "chatloop/bus/socket.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

class Link {
public:
    static constexpr size_t kBacklogMax = kDataSendMax / 4;  // frames; credits stay below it
    static constexpr TimeUs kHandshakeTimeoutUs = 3 * kSecondUs;

    // With an endpoint that cannot be connected the link never comes up. Without a descriptor for
    // its sockets it tries again after the handshake's timeout.
    Link(Context& context, std::string endpoint, TimeUs now);
    ~Link();
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;

    // In order. False, and the frame is dropped, when the queue is full.
    [[nodiscard]] bool send(Message frame);
    void flush();
    size_t backlog() const { return backlog_.size(); }
    // Frames that a connected socket did not take at once: its high-water mark was reached.
    uint64_t blocked() const { return blocked_; }

    bool up() const { return up_; }
    // Every change since the last call, in order: true is up. Must be called whenever the monitor's
    // descriptor is readable: one that is not drained blocks the I/O thread.
    std::vector<bool> take_changes(TimeUs now);
    // A session that met a protocol error never reconnects by itself; another socket does.
    void on_timer(TimeUs now);
    TimeUs next_timer() const { return up_ ? kNever : handshake_deadline_; }

    // For the loop; null and -1 while there is no socket.
    Socket* socket() const { return socket_.get(); }
    int monitor_fd() const { return monitor_fd_; }
    bool settled() const { return settled_; }  // the monitor, as a socket (Socket::settled)
    uint64_t sockets_made() const { return sockets_made_; }

private:
    void open(TimeUs now);
    void close();

    Context& context_;
    std::string endpoint_;
    std::unique_ptr<Socket> socket_;
    void* monitor_ = nullptr;
    int monitor_fd_ = -1;
    bool settled_ = true;
    bool up_ = false;
    TimeUs handshake_deadline_ = kNever;
    std::deque<Message> backlog_;
    uint64_t sockets_made_ = 0;
    uint64_t blocked_ = 0;
};

}  // namespace chatloop
