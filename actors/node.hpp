// The wiring of one actor process: sockets, links, signals and the loop. Real messages go in to the
// actor class, what it puts in its Outbox goes out; no decision is made here.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chatloop/bus/context.hpp"
#include "chatloop/bus/link.hpp"
#include "chatloop/bus/outbox.hpp"
#include "chatloop/bus/poll_loop.hpp"
#include "chatloop/bus/socket.hpp"
#include "chatloop/bus/system.hpp"

namespace chatloop::actors {

// The data links and the signals, which every actor has.
class Node : public Outbox, public LoopHandler {
public:
    // `io_cpus` as place_process gives them.
    explicit Node(std::string actor, const std::vector<int>& io_cpus = {});

    void open_link(LinkId id, const std::string& endpoint) override;
    void close_link(LinkId id) override;
    void send_data(LinkId id, Message frame) override;
    size_t backlog(LinkId id) const override;

protected:
    virtual void on_link_change(LinkId id, bool up, TimeUs now) = 0;
    virtual void on_terminate(TimeUs now) = 0;  // SIGTERM, SIGINT, or the parent died

    // Binds or ends the process with the design's exit code.
    void bind_or_die(Socket& socket, const std::string& endpoint);

    std::string actor_;
    SignalFd signals_;  // before the context: it blocks the signals that libzmq's threads inherit
    Context context_;
    PollLoop loop_;

private:
    std::map<LinkId, std::unique_ptr<Link>> links_;
    bool terminating_ = false;
};

// Ends with the parent, so that a supervisor that is killed leaves no orphan.
void die_with_parent();

// kInvalidRequest for an endpoint that stands for every address of the host: peers are told it.
Status check_connectable(const std::string& endpoint);
// The endpoint that peers are told to connect to; ends the process if it is none.
std::string connectable(const std::string& actor, const Socket& socket);

}  // namespace chatloop::actors
