#include "node.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>

#include "common.hpp"

namespace chatloop::actors {

Node::Node(std::string actor, const std::vector<int>& io_cpus)
    : actor_(std::move(actor)), context_(io_cpus) {
    raise_descriptor_limit();
    loop_.add_fd(signals_.fd(), [this](TimeUs now) {
        while (const int signal = signals_.take()) {
            if (signal == kParentDied && terminating_) continue;
            terminating_ = true;
            on_terminate(now);
        }
    });
}

void Node::open_link(LinkId id, const std::string& endpoint) {
    const TimeUs now = monotonic_now();
    auto link = std::make_unique<Link>(context_, endpoint, now);
    loop_.add_link(*link, [this, id](TimeUs at, bool up) { on_link_change(id, up, at); });
    links_[id] = std::move(link);
}

void Node::close_link(LinkId id) {
    const auto link = links_.find(id);
    if (link == links_.end()) return;
    loop_.remove_link(*link->second);
    links_.erase(link);
}

void Node::send_data(LinkId id, Message frame) {
    const auto link = links_.find(id);
    if (link == links_.end()) return;
    const bool queued = link->second->send(std::move(frame));
    CL_ASSERT(queued);  // credits stay far below the bound of the queue
}

size_t Node::backlog(LinkId id) const {
    const auto link = links_.find(id);
    return link == links_.end() ? 0 : link->second->backlog();
}

void Node::bind_or_die(Socket& socket, const std::string& endpoint) {
    if (const Status bound = socket.bind(endpoint); !bound) die(actor_, bound.error());
}

void die_with_parent() {
    const pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, kParentDied);
    if (getppid() != parent) std::exit(kInternal);  // it died before we asked
}

Status check_connectable(const std::string& endpoint) {
    if (!endpoint.starts_with("tcp://0.0.0.0:") && !endpoint.starts_with("tcp://*:")) return Ok{};
    return Error{ErrorCode::kInvalidRequest,
                 endpoint + " is no address that peers can connect to; bind the address of this "
                            "host that they reach"};
}

std::string connectable(const std::string& actor, const Socket& socket) {
    value_or_die(actor, check_connectable(socket.last_endpoint()));
    return socket.last_endpoint();
}

}  // namespace chatloop::actors
