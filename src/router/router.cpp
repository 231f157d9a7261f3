// The router's frame: construction, events of the cluster, timers, drain.
#include "chatloop/router/router.hpp"

#include <algorithm>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/core/printable.hpp"
#include "chatloop/core/rules.hpp"

namespace chatloop {

namespace {

constexpr TimeUs kOwnGapUs = 400 * kMillisecondUs;  // timers are due every 200 ms
constexpr TimeUs kDesertedUs = 3 * kSecondUs;  // a drain waits no longer for workers that are
                                               // all gone: a supervisor is back within 2 s

}  // namespace

Router::Router(const RouterConfig& config, Outbox& outbox, const TextEngine& text, Log log)
    : config_(config),
      outbox_(outbox),
      text_(text),
      log_(std::move(log)),
      cluster_(config.cluster, outbox, *this),
      fingerprint_(hex16(config.cluster.fingerprint)),
      seed_state_(config.seed),
      trace_state_(config.seed ^ 0x7472616365u) {
    CL_ASSERT(config.max_batch_size > 0 && config.max_batch_size <= kFrameItemsMax);
    CL_ASSERT(config.prefill_rows > 0);
    CL_ASSERT(config.max_batch_size + config.prefill_rows <= kFrameRowsMax);
    CL_ASSERT(config.prefill_slice_us > 0 && config.batching_window_us >= 0);
}

void Router::on_control(const std::string& peer, wire::ByteView bytes, TimeUs now) {
    cluster_.on_control(peer, bytes, now);
    schedule(now);
}

void Router::on_link(LinkId link, bool up, TimeUs now) {
    cluster_.on_link(link, up, now);
    schedule(now);
}

void Router::on_worker_gone(const std::string& peer, TimeUs now) {
    cluster_.on_unreachable(peer, now);
    schedule(now);
}

void Router::on_route_up(const Route& route) {
    ++counters_.routes_up;
    Lane& lane = lanes_[route.generation];
    std::vector<uint32_t> process_of_hop;
    std::vector<Incarnation> processes;
    for (const Incarnation hop : route.hops) {
        const auto found = std::find(processes.begin(), processes.end(), hop);
        process_of_hop.push_back(static_cast<uint32_t>(found - processes.begin()));
        if (found == processes.end()) processes.push_back(hop);
    }
    lane.cost = RouteCost(std::move(process_of_hop));
    adopt(route, lane);
    lane.times.clear();
    for (size_t hop = 0; hop < route.hops.size(); ++hop) {
        const uint8_t role = hop < route.stages() ? wire::kRoleStage : wire::kRoleSampler;
        lane.times.push_back(times_of(cluster_.workers().at(route.hops[hop]).hello.name, role));
    }
    note_event(false, "route " + std::to_string(route.generation) + " is up");
    log_('i', "route " + std::to_string(route.generation) + " is up: " +
                  std::to_string(route.stages()) + " stages, " +
                  std::to_string(route.workers.size()) + " workers, " +
                  std::to_string(route.kv->block_count()) + " KV blocks", "");
}

void Router::on_worker_event(const WorkerPeer& worker, const std::string& what) {
    log_('i', "worker " + worker.hello.name + " " + what, "");
    note_event(what != "joined", "worker " + worker.hello.name + " " + what);
}

void Router::on_worker_refused(const RefusedWorker& worker) {
    const std::string text = "worker " + worker.name + " was refused: " + worker.reason;
    log_('w', text, "");
    note_event(true, text);
}

void Router::on_quarantine(const std::string& peer) {
    const std::string who = printable_ascii(peer);
    log_('w', "peer " + who + " keeps sending what is no message: it is not read for 30 s", "");
    note_event(true, "peer " + who + " is in quarantine");
}

bool Router::ready() const {
    return std::any_of(cluster_.routes().begin(), cluster_.routes().end(), [](const auto& entry) {
        return entry.second.up && !entry.second.draining;
    });
}

void Router::on_tick(TimeUs now) {
    // After a pause of our own, what the others said meanwhile is still in the sockets: they are
    // judged only when it was read.
    if (ticked_at_ != 0 && now - ticked_at_ > kOwnGapUs && holds(Rule::kOwnPause)) {
        cluster_.rearm(now);
        peopled_at_ = now;
        for (auto& [generation, lane] : lanes_) lane.answered_at = now;
        for (auto& [name, client] : clients_) client.heard_at = now;
    }
    ticked_at_ = now;
    if (started_at_ == 0) started_at_ = peopled_at_ = now;
    if (draining_ && sequences_.empty()) cluster_.stop_forming();
    cluster_.on_tick(now);
    if (!cluster_.is_deserted()) peopled_at_ = now;
    check_overdue(now);
    judge(now);
    hand_over(now);
    if (ready()) without_route_since_ = now;
    const std::string why = draining_ ? "" : cluster_.why_no_route();
    if (no_route_notice_.is_due(why, now)) {
        log_('w', "no route: " + why, "");
        note_event(true, "no route: " + why);
    }
    expire(now);
    note_rate(now);
    std::vector<std::string> silent;
    for (const auto& [name, client] : clients_)
        if (now - client.heard_at > config_.client_silence_us) silent.push_back(name);
    for (const std::string& name : silent) on_client_gone(name, now);

    // A draining route without sequences lets its workers go.
    std::vector<Generation> idle;
    for (const auto& [generation, route] : cluster_.routes()) {
        const auto lane = lanes_.find(generation);
        const bool empty = lane == lanes_.end() ||
                           (lane->second.sequences.empty() && lane->second.in_flight.empty());
        if (empty && (route.draining || draining_) && (!draining_ || sequences_.empty()))
            idle.push_back(generation);
    }
    for (const Generation generation : idle) {
        lanes_.erase(generation);
        cluster_.retire(generation, now);
    }
    schedule(now);
    if (!draining_) return;
    const bool is_over = now >= drain_until_ || now - peopled_at_ >= kDesertedUs;
    if (is_over) {
        const Error draining{ErrorCode::kDraining, "the router is shutting down"};
        while (!sequences_.empty()) fail(*sequences_.begin()->second, draining);
        lanes_.clear();
        parked_.clear();
        while (!cluster_.routes().empty())
            cluster_.retire(cluster_.routes().begin()->first, now);
    }
    // A connection that is closed with unread bytes is reset, which takes along what was sent last:
    // a FENCE that a draining worker waits for. So its acknowledgement is heard first.
    const bool settled = sequences_.empty() && cluster_.routes().empty();
    finished_ = finished_ || (settled && (cluster_.all_fenced() || is_over));
}

TimeUs Router::next_timer() const {
    TimeUs next = std::min(cluster_.next_timer(), finished_ ? kNever : drain_until_);
    if (draining_ && !finished_ && cluster_.is_deserted())
        next = std::min(next, peopled_at_ + kDesertedUs);
    for (const auto& [generation, lane] : lanes_)
        if (!lane.in_flight.empty())
            next = std::min(next, overdue_at(cluster_.routes().at(generation), lane));
    for (const auto& [generation, lane] : lanes_)
        if (lane.hold_until != kHasWaited) next = std::min(next, lane.hold_until);
    if (!timeouts_.empty()) next = std::min(next, timeouts_.begin()->first);
    return next;
}

void Router::drain(TimeUs now) {
    if (draining_) {  // a second SIGTERM ends at once
        finished_ = true;
        return;
    }
    draining_ = true;
    drain_until_ = now + config_.drain_timeout_us;
    log_('i', "draining: " + std::to_string(sequences_.size()) + " requests to finish", "");
    on_tick(now);
}

}  // namespace chatloop
