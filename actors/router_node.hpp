// A router's node: the front for clients, the control socket for workers, the PULL for results.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/bus/egress.hpp"
#include "chatloop/core/config.hpp"
#include "chatloop/router/router.hpp"
#include "chatloop/text/text.hpp"
#include "addresses.hpp"
#include "common.hpp"
#include "http_front.hpp"
#include "journal_files.hpp"
#include "node.hpp"
#include "trace_sender.hpp"

namespace chatloop::actors {

struct RouterOptions {
    std::string model;
    std::string name;
    std::string ctrl;
    std::string front;
    std::string result;
    std::string http;     // addresses; empty: none
    std::string api_keys_file;
    std::string journal_dir;  // empty: none
    std::string metrics;
    std::string endpoints_file;
    std::string otel_endpoint;  // empty: no traces leave
    std::string exporter;
    std::vector<BoundAddress> bound;
    kernel::KvType kv_type = kernel::KvType::kF16;
    RouterConfig router;  // what the model does not say
};

Result<RouterOptions> router_options(const Settings& settings);

// A router's files, opened and checked; ends the process if they are not valid.
struct RouterModel {
    ModelSpec spec;
    std::unique_ptr<TextEngine> text;
};
RouterModel open_router_model(const std::string& actor, const RouterOptions& options);
// Whether this machine has the addresses that the router is to bind; ends the process if not.
void check_router(const std::string& actor, const RouterOptions& options);

class RouterNode final : public Node {
public:
    RouterNode(Host& host, const std::string& actor, const RouterOptions& options,
               const RouterModel& model);

    std::string ctrl() const { return ctrl_.last_endpoint(); }
    void log_endpoints() const;

    // Outbox. A peer that cannot be reached is told to the router at the next tick, not in the
    // middle of what it is doing.
    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override;
    void send_client(const std::string& peer, std::vector<uint8_t> bytes) override;

    void on_tick(TimeUs now, TimeUs gap) override;
    TimeUs next_timer() const override;
    bool has_work() const override;
    void run_unit(TimeUs now) override;
    bool finished() const override;
    void on_terminate(TimeUs now) override;
    void on_log_level() override;
    void add_metrics(Exposition& page) const override;

private:
    void wire();
    void restore_streams();
    void on_result(Message bytes, TimeUs now);
    TimeUs leaves_at() const;
    void note_sockets();
    void write_endpoints(const std::string& file) const;
    void on_link_change(LinkId id, bool up, TimeUs now) override { router_->on_link(id, up, now); }

    Socket ctrl_;
    Socket front_;
    Socket result_;
    std::unique_ptr<Router> router_;
    Egress egress_{[this](const std::string& peer, Message& message) {
        return front_.send_to(peer, message);
    }};
    uint64_t control_blocked_ = 0;
    std::set<std::string> workers_gone_;
    bool holds_ = false;
    std::vector<std::pair<std::string, std::vector<uint8_t>>> held_;  // for clients, while holds_
    std::unique_ptr<JournalFiles> journal_;
    std::unique_ptr<HttpPort> http_;  // null without an address
    std::unique_ptr<HttpFront> api_;  // on http_
    std::unique_ptr<TraceSender> traces_;  // null without a collector
    TimeUs drain_timeout_us_ = 0;
    TimeUs drain_until_ = kNever;
    TimeUs spoke_at_;  // what was said of a request last left the egress
    TimeUs ticked_at_ = 0;
    bool at_once_ = false;
};

}  // namespace chatloop::actors
