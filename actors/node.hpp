// The wiring of one actor process: sockets, links, signals and the loop. Real messages go in to the
// actor class, what it puts in its Outbox goes out; no decision is made here.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "chatloop/bus/context.hpp"
#include "chatloop/bus/link.hpp"
#include "chatloop/bus/outbox.hpp"
#include "chatloop/bus/poll_loop.hpp"
#include "chatloop/bus/socket.hpp"
#include "chatloop/bus/system.hpp"
#include "chatloop/core/histogram.hpp"
#include "chatloop/host/local_bus.hpp"
#include "exposition.hpp"
#include "http_port.hpp"
#include "process_usage.hpp"

namespace chatloop::actors {

class Node;

// A process: its signals, sockets, loop, and the nodes that run in it, mostly one. Nodes of one
// process talk over the in-process bus; what they do not know there goes through sockets.
class Host final : public LoopHandler {
public:
    // `io_cpus` as place_process gives them.
    explicit Host(const std::vector<int>& io_cpus = {});

    // Before run, in the order of their turns. A node outlives the run.
    void add(Node& node) { nodes_.push_back(&node); }
    // On SIGHUP; the nodes are told of the log's level behind it.
    void set_reload(std::function<void()> reload) { reload_ = std::move(reload); }
    // The page of the process: itself, then its nodes.
    const std::string& metrics(TimeUs now);
    const ProcessUsage& usage() const { return usage_; }
    // An HTTP address of the process; it outlives the run.
    void add(HttpPort& port) { ports_.push_back(&port); }
    // Until all have finished, or one has failed.
    void run() { loop_.run(*this); }

    Context& context() { return context_; }
    PollLoop& loop() { return loop_; }
    LocalBus& bus() { return bus_; }

    void on_tick(TimeUs now) override;
    TimeUs next_timer() const override;
    bool has_work() const override;
    void run_unit(TimeUs now) override;
    bool finished() const override;

private:
    void deliver(TimeUs now);

    SignalFd signals_;  // before the context: it blocks the signals that libzmq's threads inherit
    Context context_;
    PollLoop loop_;
    LocalBus bus_;
    std::vector<Node*> nodes_;
    std::vector<HttpPort*> ports_;
    size_t next_ = 0;  // whose unit is tried first
    bool terminating_ = false;
    std::function<void()> reload_;
    ProcessUsage usage_;
    std::string metrics_page_;
    TimeUs metrics_made_at_ = 0;
    Histogram loop_gap_s_{kStepBoundsS};
    TimeUs started_at_;
};

// An actor with its data links.
class Node : public Outbox {
public:
    Node(Host& host, std::string actor);

    void open_link(LinkId id, const std::string& endpoint) override;
    void close_link(LinkId id) override;
    void send_data(LinkId id, Message frame) override;
    size_t backlog(LinkId id) const override;
    uint64_t sends_blocked() const;  // Link::blocked of all data links so far

    // As of LoopHandler; `gap` is the loop's (PollLoop::take_loop_gap).
    virtual void on_tick(TimeUs now, TimeUs gap) = 0;
    virtual TimeUs next_timer() const = 0;
    virtual bool has_work() const = 0;
    virtual void run_unit(TimeUs now) = 0;
    virtual bool finished() const = 0;
    virtual bool failed() const { return false; }  // the process is to end
    virtual void on_terminate(TimeUs now) = 0;     // SIGTERM, SIGINT, or the parent died
    virtual void on_log_level() {}                 // may have changed
    virtual void add_metrics(Exposition&) const {}

protected:
    virtual void on_link_change(LinkId id, bool up, TimeUs now) = 0;

    // Other nodes of the process reach it by this name and endpoint from now on.
    void attach(const std::string& name, const std::string& endpoint, LocalBus::Handlers handlers);
    // Whether the peer is in this process: if so, `bytes` are on their way.
    bool send_within(const std::string& peer, std::vector<uint8_t>& bytes);

    // Binds or ends the process with the design's exit code.
    void bind_or_die(Socket& socket, const std::string& endpoint);
    // The same for HTTP; null for an empty address.
    std::unique_ptr<HttpPort> open_port(const std::string& address);
    // One with /metrics: metrics_ is null for an empty address, or when every port of PORT+ is in
    // use, which log_metrics tells.
    void open_metrics(const std::string& address);
    void log_metrics() const;

    Host& host_;
    std::string actor_;
    std::unique_ptr<HttpPort> metrics_;

private:
    std::map<LinkId, std::unique_ptr<Link>> links_;
    std::set<LinkId> links_within_;
    uint64_t blocked_before_ = 0;  // of links that are closed
    Outbox* within_ = nullptr;  // the in-process bus
    std::string no_metrics_;  // why
};

// Ends with the parent, so that a supervisor that is killed leaves no orphan.
void die_with_parent();

// kInvalidRequest for an endpoint that stands for every address of the host: peers are told it.
Status check_connectable(const std::string& endpoint);
// The endpoint that peers are told to connect to; ends the process if it is none.
std::string connectable(const std::string& actor, const Socket& socket);

}  // namespace chatloop::actors
