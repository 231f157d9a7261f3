// STATUS: the router's view of its cluster and of its own work.
#include "chatloop/router/router.hpp"

namespace chatloop {

void Router::send_status(const std::string& client) {
    const auto state_name = [](wire::WorkerState state) {
        switch (state) {
            case wire::WorkerState::kLoading: return "loading";
            case wire::WorkerState::kReady: return "ready";
            case wire::WorkerState::kDraining: return "draining";
        }
        return "loading";
    };
    wire::StatusReply status;
    status.router = config_.cluster.name;
    status.model = config_.model_name;
    status.fingerprint = fingerprint_;
    status.ready = ready();
    for (const auto& [incarnation, worker] : cluster_.workers()) {
        wire::WorkerStatus entry{worker.hello.name, worker.hello.roles, worker.hello.layer_first,
                                 worker.hello.layer_end, state_name(worker.state),
                                 worker.hello.kernels, worker.hello.kv_cache_dtype, {}};
        for (const wire::WorkerCounter& counter : wire::kWorkerCounters)
            entry.counters.push_back({std::string(counter.name), worker.counters.*counter.value});
        status.workers.push_back(std::move(entry));
    }
    for (const auto& [generation, route] : cluster_.routes())
        status.routes.push_back(route_status(route));
    status.running = static_cast<uint32_t>(running());
    status.waiting = static_cast<uint32_t>(waiting());
    status.backlog_bytes = sockets_.backlog_bytes;
    status.counters = all_counters();
    for (const auto& [code, count] : counters_.errors)
        status.errors.push_back({std::string(code), count});
    const auto add = [&](const char* name, const Histogram& histogram) {
        status.histograms.push_back({name,
                                     {histogram.bounds().begin(), histogram.bounds().end()},
                                     histogram.counts(), histogram.sum()});
    };
    add("queue_ms", histograms_.queue_ms);
    add("time_to_first_token_ms", histograms_.first_token_ms);
    add("inter_token_ms", histograms_.token_ms);
    add("decode_rows", histograms_.decode_rows);
    send(client, status);
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
             {"credit_frames", credit_frames}})
        status.counters.push_back(std::move(counter));
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
        {"workers_joined", cluster.workers_joined},
        {"workers_lost", cluster.workers_lost},
        {"workers_refused", cluster.workers_refused},
        {"front_malformed", own.front_malformed + sockets_.front_malformed},
        {"ctrl_malformed", cluster.ctrl_malformed + sockets_.ctrl_malformed},
        {"ctrl_unexpected", cluster.ctrl_unexpected},
        {"result_malformed", own.result_malformed + sockets_.result_malformed},
        {"sends_blocked", sockets_.sends_blocked},
        {"backlog_drops", sockets_.backlog_drops},
        {"backlog_messages_dropped", sockets_.backlog_messages_dropped},
    };
}

}  // namespace chatloop
