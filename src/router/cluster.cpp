// Membership: HELLO, heartbeats, losses.
#include "chatloop/router/cluster.hpp"

#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/core/printable.hpp"
#include "chatloop/core/rules.hpp"

namespace chatloop {

Cluster::Cluster(const ClusterConfig& config, Outbox& outbox, Events& events)
    : config_(config), outbox_(outbox), events_(events) {
    CL_ASSERT(config.incarnation != 0);
}

void Cluster::send(WorkerPeer& worker, wire::ControlBody body) {
    const wire::Control message{config_.incarnation, ++worker.sequence, std::move(body)};
    outbox_.send_control(worker.peer, wire::encode_control(message));
}

void Cluster::send_to(const std::string& peer, wire::ControlBody body) {
    const wire::Control message{config_.incarnation, ++stray_sequence_, std::move(body)};
    outbox_.send_control(peer, wire::encode_control(message));
}

void Cluster::on_control(const std::string& peer, wire::ByteView bytes, TimeUs now) {
    if (quarantine_.holds(peer, now)) {
        ++counters_.ctrl_quarantined;
        return;
    }
    const Result<wire::Control> message = wire::decode_control(bytes);
    if (!message) {
        ++counters_.ctrl_malformed;
        if (quarantine_.note(peer, now)) events_.on_quarantine(peer);
        return;
    }
    if (const auto* hello = std::get_if<wire::Hello>(&message->body))
        return on_hello(peer, message->sender, *hello, now);
    const auto found = workers_.find(message->sender);
    if (found == workers_.end() || found->second.peer != peer) {
        ++counters_.ctrl_unexpected;
        return send_to(peer, wire::Unknown{});
    }

    WorkerPeer& worker = found->second;
    note_alive(worker, now);
    worker.spoke = true;
    worker.heard_sequence = message->sequence;
    const wire::ControlBody& body = message->body;
    if (const auto* ready = std::get_if<wire::Ready>(&body)) {
        on_ready(worker, ready->generation, now);
    } else if (const auto* fenced = std::get_if<wire::Fenced>(&body)) {
        on_fenced(worker, fenced->through, now);
    } else if (const auto* beat = std::get_if<wire::WorkerHeartbeat>(&body)) {
        on_heartbeat(worker, *beat, now);
    } else if (const auto* gap = std::get_if<wire::Gap>(&body)) {
        on_gap(worker, *gap, now);
    } else if (const auto* unreachable = std::get_if<wire::Unreachable>(&body)) {
        on_unreachable(worker, *unreachable, now);
    } else if (const auto* bye = std::get_if<wire::Bye>(&body)) {
        lose(worker.incarnation, Loss::kGoodbye, "left: " + bye->reason, now);
    } else {
        ++counters_.ctrl_unexpected;  // a router's message from a worker
    }
}

// Why a worker can never serve this router; empty when it can.
std::string Cluster::mismatch(const wire::Hello& hello) const {
    if (hello.model_id != config_.model_id || hello.layers != config_.layers ||
        hello.width != config_.width || hello.vocab != config_.vocab)
        return "its files are of another model (" + printable_ascii(hello.model_id) +
               ", the router serves " +
               config_.model_id + ")";
    if (hello.cut_id != config_.cut_id)
        return "its partition is of another cut (" + printable_ascii(hello.cut_id) +
               ", the router serves " +
               config_.cut_id + "): split once and give every process that directory";
    const bool is_stage = (hello.roles & wire::kRoleStage) != 0;
    if (is_stage && hello.kv_cache_dtype != config_.kv_cache_dtype)
        return "its KV cache is " + printable_ascii(hello.kv_cache_dtype) +
               ", the router serves " +
               config_.kv_cache_dtype + ": give performance.kv_cache_dtype one value everywhere";
    if (hello.fingerprint != (is_stage ? config_.fingerprint : config_.sampler_fingerprint))
        return "its numerics fingerprint differs";
    if (hello.self_test != config_.self_test)
        return "its arithmetic self-test differs: this CPU or build would give other tokens";
    const bool range_ok = hello.layer_first < hello.layer_end && hello.layer_end <= hello.layers;
    if (is_stage && !range_ok) return "its layer range is impossible";
    if (hello.share.frames == 0 || hello.share.bytes == 0) return "its share is empty";
    if (hello.share.blocks > kBlocksMax) return "its KV cache has more blocks than are served";
    const bool no_cache = hello.share.slots == 0 || hello.share.blocks == 0;
    if (is_stage && no_cache) return "its share is empty";
    return {};
}

// Each is told once, and one a second: who says HELLO under ever new names fills no log.
void Cluster::note_refused(const std::string& name, const std::string& reason, TimeUs now) {
    const std::string shown = printable_ascii(name);
    for (const RefusedWorker& worker : refused_)
        if (worker.name == shown && worker.reason == reason) return;
    std::erase_if(refused_, [&](const RefusedWorker& worker) { return worker.name == shown; });
    if (refused_.size() >= kRefusalsKept) refused_.pop_front();
    refused_.push_back({shown, reason});
    if (now - refusal_told_at_ < kSecondUs) return;
    refusal_told_at_ = now;
    events_.on_worker_refused(refused_.back());
}

void Cluster::on_hello(const std::string& peer, Incarnation sender, const wire::Hello& hello,
                       TimeUs now) {
    const bool was_replaced =
        std::find(replaced_.begin(), replaced_.end(), sender) != replaced_.end();
    if (was_replaced && holds(Rule::kReplacedWorker)) {
        ++counters_.workers_refused;
        const std::string why = hello.name + " was replaced by another process of that name";
        return send_to(peer, wire::Reject{"replaced", why, false});
    }
    const std::string reason = mismatch(hello);
    if (!reason.empty()) {
        ++counters_.workers_refused;
        note_refused(hello.name, reason, now);
        const std::string why = hello.name + " is refused: " + reason;
        return send_to(peer, wire::Reject{"mismatch", why, false});
    }
    const auto known = workers_.find(sender);
    if (known == workers_.end()) {
        if (workers_.size() >= kWorkersMax) {
            ++counters_.workers_refused;
            note_refused(hello.name, "too many workers", now);
            return send_to(peer, wire::Reject{"full", "too many workers", true});
        }
        // The same name with another incarnation is the same place after a restart.
        Incarnation replaces = 0;
        if (const WorkerPeer* holder = holder_of(hello.name)) {
            replaces = holder->incarnation;
            if (!yields(workers_.at(replaces), peer, sender, now)) return;
            lose(replaces, Loss::kReplaced, "was replaced by a new process", now);
        }
        std::erase_if(lost_, [&](const auto& entry) { return entry.second == sender; });
        replace_lost(hello.name);
        std::erase_if(refused_, [&](const RefusedWorker& worker) {
            return worker.name == printable_ascii(hello.name);
        });
        WorkerPeer worker;
        worker.peer = peer;
        worker.incarnation = sender;
        worker.hello = hello;
        worker.credit = CreditAccount(hello.share);
        worker.heartbeat_at = now;
        const auto& added = workers_.emplace(sender, std::move(worker)).first->second;
        if (!holds(Rule::kReplaced)) take_remains_for(replaces, sender);
        ++counters_.workers_joined;
        events_.on_worker_event(added, "joined");
    }
    WorkerPeer& worker = workers_.at(sender);
    worker.peer = peer;
    note_alive(worker, now);
    if (worker.spoke && holds(Rule::kForgotten)) on_forgotten(worker, now);
    send(worker, wire::Welcome{sender, config_.name, config_.heartbeat_interval_ms,
                               config_.failure_threshold, config_.result_endpoint});
    form_at_ = now;
}

// Only who does not know us says HELLO: it has dropped its tables and fences. Two in a row were
// sent before WELCOME came.
void Cluster::on_forgotten(WorkerPeer& worker, TimeUs now) {
    worker.spoke = false;
    worker.state = wire::WorkerState::kLoading;  // until its heartbeat
    worker.credit = CreditAccount(worker.hello.share);
    worker.fenced = worker.fence_wanted;
    const std::string why = worker.hello.name + " has forgotten what it held";
    fault(worker.generation, why, now);
    drop_remains_of(worker.incarnation, why, now);
}

// A worker that has fenced the very route it is on will never answer that route's frames.
void Cluster::on_fenced(WorkerPeer& worker, Generation through, TimeUs now) {
    if (worker.generation != 0 && through >= worker.generation)
        fault(worker.generation, worker.hello.name + " has fenced the route", now);
    worker.fenced = std::max(worker.fenced, through);
    if (holds(Rule::kFenceCredit)) worker.credit.fenced(through);
}

bool Cluster::all_fenced() const {
    return std::all_of(workers_.begin(), workers_.end(), [](const auto& entry) {
        return entry.second.fenced >= entry.second.fence_wanted;
    });
}

// Level-triggered: whatever a lost message left behind is repaired here.
void Cluster::on_heartbeat(WorkerPeer& worker, const wire::WorkerHeartbeat& beat, TimeUs now) {
    if (worker.state != beat.state) form_at_ = now;
    worker.state = beat.state;
    worker.counters = beat.counters;
    worker.frames_held = beat.frames_held;
    worker.loop_gap_us = beat.loop_gap_us;
    on_fenced(worker, beat.fenced_through, now);
    if (beat.fenced_through < worker.fence_wanted && holds(Rule::kFenceRepeat))
        send(worker, wire::Fence{worker.fence_wanted});
    for (const wire::RouteReport& report : beat.routes)
        if (report.generation != worker.generation)
            events_.on_last_report(worker.incarnation, report);
    const auto found = routes_.find(worker.generation);
    if (found == routes_.end()) return;
    Route& route = found->second;
    if (worker.state == wire::WorkerState::kDraining) route.draining = true;

    bool installed = false;
    for (const wire::RouteReport& report : beat.routes) {
        if (report.generation != route.generation) continue;
        installed = true;
        const bool is_hop = report.hop < route.hops.size() &&
                            route.hops[report.hop] == worker.incarnation;
        if (!is_hop || !route.up) continue;
        if (!report.link_up && holds(Rule::kLinkDown)) {
            if (report.hop + 1u < route.hops.size()) note_fault(route.hops[report.hop + 1], now);
            return fault(route.generation, worker.hello.name + " lost the link to its next hop",
                         now);
        }
        if (!note_report(route, report, now))
            return fault(route.generation, "a frame was lost on its way", now);
    }
    if (route.up && !installed)
        return fault(route.generation, worker.hello.name + " has forgotten the route", now);
    if (!route.up && worker.state == wire::WorkerState::kReady &&
        route.not_ready.contains(worker.incarnation))
        send_route(worker, route);
}

// A worker speaks for the route that it is on; of another it comes late, or means ill.
void Cluster::on_gap(const WorkerPeer& worker, const wire::Gap& gap, TimeUs now) {
    if (gap.generation != worker.generation) {
        ++counters_.ctrl_unexpected;
        return;
    }
    if (!holds(Rule::kGapReport)) return;
    note_fault(worker.incarnation, now);
    fault(gap.generation,
          worker.hello.name + " did not accept frame " + std::to_string(gap.got) + " (expected " +
              std::to_string(gap.expected) + ", reason " +
              std::to_string(static_cast<int>(gap.reason)) + ")",
          now);
}

void Cluster::on_unreachable(const WorkerPeer& worker, const wire::Unreachable& report,
                             TimeUs now) {
    const auto next = workers_.find(report.peer);
    if (report.generation != worker.generation) {
        ++counters_.ctrl_unexpected;
        return;
    }
    const bool is_worker = next != workers_.end() && next->second.generation == report.generation;
    if (is_worker) {
        avoid(next->second.hello.name, now);
        note_bad_edge(worker.incarnation, report.peer, now);
    }
    avoid(worker.hello.name, now);  // the edge may be bad at either end
    fault(report.generation, worker.hello.name + " cannot reach its next hop", now);
}

void Cluster::lose(Incarnation incarnation, Loss loss, const std::string& why, TimeUs now) {
    const auto found = workers_.find(incarnation);
    if (found == workers_.end()) return;
    if (loss != Loss::kGoodbye) note_fault(incarnation, now);
    const WorkerPeer gone = std::move(found->second);
    workers_.erase(found);  // and its credit with it
    forget_name(gone);
    ++counters_.workers_lost;
    const std::string what = gone.hello.name + " " + why;
    events_.on_worker_event(gone, why);
    fault(gone.generation, what, now);
    const bool is_dead = loss == Loss::kDeath || loss == Loss::kReplaced;
    if (is_dead) events_.on_worker_died(incarnation, now);
    if (loss != Loss::kReplaced || holds(Rule::kReplaced))
        drop_remains_of(incarnation, what, now);
    form_at_ = now;
}

void Cluster::on_tick(TimeUs now) {
    check_health(now);
    for (auto& [incarnation, worker] : workers_) {
        if (now < worker.heartbeat_at) continue;
        wire::RouterHeartbeat beat{worker.heard_sequence, worker.fence_wanted, {}};
        if (worker.generation != 0) beat.generations.push_back(worker.generation);
        send(worker, std::move(beat));
        worker.heartbeat_at = now + config_.heartbeat_interval_ms * kMillisecondUs;
    }
    std::vector<Generation> late;
    for (const auto& [generation, route] : routes_) {
        const TimeUs bound_us = route.link_up ? config_.install_timeout_us
                                              : config_.link_timeout_us;
        if (route.up || now - route.installed_at <= bound_us) continue;
        late.push_back(generation);
        if (!route.link_up) {
            avoid(workers_.at(route.hops[0]).hello.name, now);
            continue;
        }
        for (const Incarnation incarnation : route.not_ready)
            avoid(workers_.at(incarnation).hello.name, now);
    }
    for (const Generation generation : late) fault(generation, "the route did not come up", now);
    if (now >= form_at_) form_route(now);
}

}  // namespace chatloop
