// STATUS: the router's view of its cluster and of its own work.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

namespace {

const char* state_name(wire::WorkerState state) {
    switch (state) {
        case wire::WorkerState::kLoading: return "loading";
        case wire::WorkerState::kReady: return "ready";
        case wire::WorkerState::kDraining: return "draining";
    }
    return "loading";
}

wire::HistogramStatus status_of(const char* name, const Histogram& histogram) {
    return {name, {histogram.bounds().begin(), histogram.bounds().end()}, histogram.counts(),
            histogram.sum()};
}

uint64_t age_us(TimeUs since, TimeUs now) {
    return static_cast<uint64_t>(std::max<TimeUs>(0, now - since));
}

}  // namespace

wire::StatusReply Router::status() const {
    wire::StatusReply status;
    status.router = config_.cluster.name;
    status.model = config_.model_name;
    status.fingerprint = fingerprint_;
    status.ready = ready();
    status.no_route = cluster_.why_no_route();
    for (const auto& [incarnation, worker] : cluster_.workers())
        status.workers.push_back(worker_status(worker));
    for (const auto& [generation, route] : cluster_.routes())
        status.routes.push_back(route_status(route));
    status.running = static_cast<uint32_t>(running());
    status.waiting = static_cast<uint32_t>(waiting());
    status.backlog_bytes = sockets_.backlog_bytes;
    status.counters = all_counters();
    for (const auto& [code, count] : counters_.errors)
        status.errors.push_back({std::string(code), count});
    status.histograms = {status_of("queue_ms", histograms_.queue_ms),
                         status_of("time_to_first_token_ms", histograms_.first_token_ms),
                         status_of("inter_token_ms", histograms_.token_ms),
                         status_of("decode_rows", histograms_.decode_rows)};
    status.uptime_us = started_at_ == 0 ? 0 : age_us(started_at_, ticked_at_);
    status.requests = request_status();
    for (const Event& event : events_)
        status.events.push_back({event.number, age_us(event.at, ticked_at_), event.warning,
                                 event.text});
    return status;
}

wire::WorkerStatus Router::worker_status(const WorkerPeer& worker) const {
    wire::WorkerStatus status;
    status.name = worker.hello.name;
    status.roles = worker.hello.roles;
    status.layer_first = worker.hello.layer_first;
    status.layer_end = worker.hello.layer_end;
    status.state = state_name(worker.state);
    status.kernels = worker.hello.kernels;
    status.kv_cache_dtype = worker.hello.kv_cache_dtype;
    for (const wire::WorkerCounter& counter : wire::kWorkerCounters)
        status.counters.push_back({std::string(counter.name), worker.counters.*counter.value});
    status.frames_held = worker.frames_held;
    status.loop_gap_us = worker.loop_gap_us;
    for (const uint8_t role : {wire::kRoleStage, wire::kRoleSampler}) {
        const auto found = metrics_.workers.find({worker.hello.name, role});
        if ((worker.hello.roles & role) == 0 || found == metrics_.workers.end()) continue;
        const WorkerTimes& times = found->second;
        status.work.push_back({role, times.frames, times.rows, times.busy_us, times.queue_us,
                               times.work_us, status_of("step_s", times.step_s)});
    }
    return status;
}

// Of the oldest, one entry each: its first choice that runs.
std::vector<wire::RequestStatus> Router::request_status() const {
    std::vector<wire::RequestStatus> requests;
    for (const auto& [id, sequence] : sequences_) {
        if (requests.size() >= kStatusRequestsMax) break;
        const Request& request = *sequence->request;
        if (request.running.empty() || request.running.front() != id) continue;
        const std::optional<PhaseKind> phase = sequence->trace.running();
        requests.push_back({request.id, phase_name(phase.value_or(PhaseKind::kQueue)),
                            sequence->prompt_count, committed(request),
                            age_us(sequence->arrived_at, ticked_at_), sequence->generation});
    }
    return requests;
}

wire::RouteStatus Router::route_status(const Route& route) const {
    wire::RouteStatus status{route.generation, route.up, {}, 0, {}};
    const auto found = lanes_.find(route.generation);
    const Lane* lane = found == lanes_.end() ? nullptr : &found->second;
    for (size_t hop = 0; hop < route.hops.size(); ++hop) {
        const auto worker = cluster_.workers().find(route.hops[hop]);
        status.hops.push_back({worker == cluster_.workers().end() ? "" : worker->second.hello.name,
                               lane != nullptr && hop < lane->busy_us.size() ? lane->busy_us[hop]
                                                                              : 0});
    }
    const KvBlocks& kv = *route.kv;
    status.counters = {{"kv_blocks", kv.block_count()},
                       {"kv_held", kv.block_count() - kv.free_blocks()},
                       {"kv_cached", kv.cached_blocks()},
                       {"kv_hits", kv.hits()},
                       {"kv_evictions", kv.evictions()}};
    if (lane == nullptr) return status;
    status.running = static_cast<uint32_t>(lane->sequences.size());
    const TimeUs working = lane->in_flight.empty() ? 0 : ticked_at_ - lane->busy_since;
    uint32_t credit_frames = 0;
    for (const Incarnation incarnation : route.workers)
        credit_frames = std::max(credit_frames,
                                 cluster_.workers().at(incarnation).credit.frames_out());
    for (wire::Counter counter : std::initializer_list<wire::Counter>{
             {"frames", lane->frames},
             {"work_us", static_cast<uint64_t>(lane->work_us + std::max<TimeUs>(0, working))},
             {"wire_us", lane->wire_us},
             {"credit_frames", credit_frames},
             {"in_flight", lane->in_flight.size()}})
        status.counters.push_back(std::move(counter));
    if (lane->result_at != kNever)
        status.counters.push_back({"silent_us", age_us(lane->result_at, ticked_at_)});
    return status;
}

std::vector<wire::Counter> Router::all_counters() const {
    const RouterCounters& own = counters_;
    const ClusterCounters& cluster = cluster_.counters();
    return {
        {"requests", own.requests},
        {"rejected", own.rejected},
        {"clients_gone", own.clients_gone},
        {"tokens_committed", own.tokens_committed},
        {"tokens_prefilled", own.tokens_prefilled},
        {"prefix_tokens", own.prefix_tokens},
        {"preemptions", own.preemptions},
        {"recoveries", own.recoveries},
        {"replays", own.replays},
        {"frames_sent", own.frames_sent},
        {"results", own.results},
        {"results_stale", own.results_stale},
        {"results_bad", own.results_bad},
        {"results_uncommitted", own.results_uncommitted},
        {"routes_up", own.routes_up},
        {"routes_down", own.routes_down},
        {"installs_failed", own.installs_failed},
        {"workers_joined", cluster.workers_joined},
        {"workers_lost", cluster.workers_lost},
        {"workers_refused", cluster.workers_refused},
        {"front_malformed", own.front_malformed + sockets_.front_malformed},
        {"ctrl_malformed", cluster.ctrl_malformed + sockets_.ctrl_malformed},
        {"front_quarantined", own.front_quarantined},
        {"ctrl_quarantined", cluster.ctrl_quarantined},
        {"ctrl_unexpected", cluster.ctrl_unexpected},
        {"result_malformed", own.result_malformed + sockets_.result_malformed},
        {"sends_blocked", sockets_.sends_blocked},
        {"backlog_drops", sockets_.backlog_drops},
        {"backlog_messages_dropped", sockets_.backlog_messages_dropped},
    };
}

}  // namespace chatloop
