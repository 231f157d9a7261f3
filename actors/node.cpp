#include "node.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "common.hpp"
#include "metrics.hpp"

namespace chatloop::actors {

Host::Host(const std::vector<int>& io_cpus)
    : context_(io_cpus), started_at_(monotonic_now()) {
    raise_descriptor_limit();
    loop_.add_fd(signals_.fd(), [this](TimeUs now) {
        while (const int signal = signals_.take()) {
            if (signal == kParentDied && terminating_) continue;
            if (signal == SIGHUP) {
                if (reload_) reload_();
                for (Node* node : nodes_) node->on_log_level();
                continue;
            }
            terminating_ = true;
            for (Node* node : nodes_) node->on_terminate(now);
        }
    });
}

void Host::on_tick(TimeUs now) {
    const TimeUs gap = loop_.take_loop_gap();
    loop_gap_s_.add(static_cast<double>(gap) / kSecondUs);
    usage_.update(now);
    for (Node* node : nodes_)
        if (!node->finished()) node->on_tick(now, gap);
    for (HttpPort* port : ports_) port->on_tick(now);
}

TimeUs Host::next_timer() const {
    TimeUs next = kNever;
    for (const Node* node : nodes_)
        if (!node->finished()) next = std::min(next, node->next_timer());
    for (const HttpPort* port : ports_) next = std::min(next, port->next_timer());
    return next;
}

bool Host::has_work() const {
    return bus_.pending() > 0 ||
           std::any_of(nodes_.begin(), nodes_.end(),
                       [](const Node* node) { return node->has_work(); }) ||
           std::any_of(ports_.begin(), ports_.end(),
                       [](const HttpPort* port) { return port->has_work(); });
}

// Made anew at most every 50 ms, however many scrape.
const std::string& Host::metrics(TimeUs now) {
    constexpr TimeUs kPageAgeUs = 50 * kMillisecondUs;
    if (!metrics_page_.empty() && now - metrics_made_at_ < kPageAgeUs) return metrics_page_;
    metrics_made_at_ = now;
    usage_.update(now);
    Exposition page;
    add_process_metrics(page, {usage_, loop_gap_s_, started_at_}, now);
    for (const Node* node : nodes_) node->add_metrics(page);
    metrics_page_ = page.text();
    return metrics_page_;
}

// What the nodes say to each other was answered once at most, so this ends.
void Host::deliver(TimeUs now) {
    for (size_t waiting = bus_.pending(); waiting > 0; --waiting) bus_.deliver(0, now);
}

// What HTTP clients are to hear goes out before the next unit, not behind it.
void Host::run_unit(TimeUs now) {
    deliver(now);
    for (HttpPort* port : ports_)
        if (port->has_work()) port->flush(now);
    for (size_t i = 0; i < nodes_.size(); ++i) {
        Node& node = *nodes_[next_++ % nodes_.size()];
        if (!node.has_work()) continue;
        node.run_unit(now);
        return deliver(now);
    }
}

bool Host::finished() const {
    const auto finished = [](const Node* node) { return node->finished(); };
    return std::all_of(nodes_.begin(), nodes_.end(), finished) ||
           std::any_of(nodes_.begin(), nodes_.end(), [](const Node* n) { return n->failed(); });
}

Node::Node(Host& host, std::string actor) : host_(host), actor_(std::move(actor)) {
    host.add(*this);
}

void Node::attach(const std::string& name, const std::string& endpoint,
                  LocalBus::Handlers handlers) {
    handlers.link = [this](LinkId id, bool up, TimeUs now) { on_link_change(id, up, now); };
    within_ = &host_.bus().attach(name, endpoint, std::move(handlers));
}

bool Node::send_within(const std::string& peer, std::vector<uint8_t>& bytes) {
    if (within_ == nullptr || !host_.bus().has_peer(peer)) return false;
    within_->send_control(peer, std::move(bytes));
    return true;
}

void Node::open_link(LinkId id, const std::string& endpoint) {
    if (within_ != nullptr && host_.bus().has_endpoint(endpoint)) {
        links_within_.insert(id);
        return within_->open_link(id, endpoint);
    }
    const TimeUs now = monotonic_now();
    auto link = std::make_unique<Link>(host_.context(), endpoint, now);
    host_.loop().add_link(*link, [this, id](TimeUs at, bool up) { on_link_change(id, up, at); });
    links_[id] = std::move(link);
}

void Node::close_link(LinkId id) {
    if (links_within_.erase(id) > 0) return within_->close_link(id);
    const auto link = links_.find(id);
    if (link == links_.end()) return;
    host_.loop().remove_link(*link->second);
    blocked_before_ += link->second->blocked();
    links_.erase(link);
}

void Node::send_data(LinkId id, Message frame) {
    if (links_within_.contains(id)) return within_->send_data(id, std::move(frame));
    const auto link = links_.find(id);
    if (link == links_.end()) return;
    const bool queued = link->second->send(std::move(frame));
    CL_ASSERT(queued);  // credits stay far below the bound of the queue
}

uint64_t Node::sends_blocked() const {
    uint64_t blocked = blocked_before_;
    for (const auto& [id, link] : links_) blocked += link->blocked();
    return blocked;
}

size_t Node::backlog(LinkId id) const {
    if (links_within_.contains(id)) return within_->backlog(id);
    const auto link = links_.find(id);
    return link == links_.end() ? 0 : link->second->backlog();
}

void Node::bind_or_die(Socket& socket, const std::string& endpoint) {
    if (const Status bound = socket.bind(endpoint); !bound) die(actor_, bound.error());
}

std::unique_ptr<HttpPort> Node::open_port(const std::string& address) {
    if (address.empty()) return nullptr;
    auto port = std::make_unique<HttpPort>(host_.loop(), actor_, address);
    host_.add(*port);
    return port;
}

void Node::open_metrics(const std::string& address) {
    if (address.empty()) return;
    Result<std::unique_ptr<HttpPort>> port = HttpPort::open(host_.loop(), address);
    if (!port && address.ends_with('+') && port.error().code == ErrorCode::kPortInUse) {
        no_metrics_ = "no /metrics: " + port.error().message + ", and the ports above it, too";
        return;
    }
    metrics_ = value_or_die(actor_, std::move(port));
    host_.add(*metrics_);
    metrics_->site().add("GET", "/metrics", http::Access::kOpen,
                     [this](http::ExchangeId, http::Request&, TimeUs now) {
                         return http::Response{200, kExpositionType, host_.metrics(now), {}};
                     });
}

void Node::log_metrics() const {
    if (!no_metrics_.empty()) log_line('w', no_metrics_);
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
