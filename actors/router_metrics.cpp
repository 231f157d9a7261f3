#include <set>

#include "metrics.hpp"

namespace chatloop::actors {

namespace {

constexpr double kUsPerSecond = 1e6;
constexpr double kMsPerSecond = 1e3;

double seconds(uint64_t us) { return static_cast<double>(us) / kUsPerSecond; }

void add_inference(Exposition& page, const Router& router) {
    const RouterMetrics& metrics = router.metrics();
    const RouterHistograms& histograms = router.histograms();
    page.counter("inference_requests_total", "Requests that came in: SUBMIT and RESUME",
                 static_cast<double>(router.counters().requests));
    for (const auto& [reason, count] : metrics.ended)
        page.counter("inference_requests_ended_total",
                     "Requests that ended, by finish_reason or error code",
                     static_cast<double>(count), {{"reason", reason}});
    page.histogram("inference_request_duration_seconds", "From arrival to the last message",
                   metrics.request_s);
    page.counter("inference_tokens_generated_total", "Tokens in the pieces that clients were sent",
                 static_cast<double>(metrics.tokens_generated));
    page.gauge("inference_tokens_per_second", "Of these, over the last seconds",
               metrics.tokens_per_s);
    page.histogram("inference_queue_time_seconds", "From arrival to a place on a route",
                   histograms.queue_ms, {}, 1 / kMsPerSecond);
    page.histogram("inference_time_to_first_token_seconds", "From arrival to the first token",
                   histograms.first_token_ms, {}, 1 / kMsPerSecond);
    page.histogram("inference_inter_token_seconds", "Between two tokens of an answer",
                   histograms.token_ms, {}, 1 / kMsPerSecond);
}

void add_workers(Exposition& page, const Router& router) {
    std::set<std::string> healthy;
    std::set<std::string> known;
    for (const auto& [incarnation, worker] : router.cluster().workers()) {
        known.insert(worker.hello.name);
        if (worker.state == wire::WorkerState::kReady) healthy.insert(worker.hello.name);
        const Exposition::Labels labels = {{"worker_id", worker.hello.name}};
        page.gauge("coordinator_worker_loop_gap_seconds",
                   "The longest pause of the worker's loop before its last heartbeat",
                   seconds(worker.loop_gap_us), labels);
        page.gauge("coordinator_worker_frames_held",
                   "Frames of this router that the worker has, as its last heartbeat said",
                   worker.frames_held, labels);
    }
    for (const auto& [key, times] : router.metrics().workers) {
        const auto& [name, role] = key;
        known.insert(name);
        const Exposition::Labels labels = {
            {"worker_id", name}, {"role", role == wire::kRoleStage ? "stage" : "sampler"}};
        page.histogram("coordinator_worker_response_time_seconds",
                       "Queue and compute of one frame at a worker", times.response_s, labels);
        page.counter("coordinator_worker_busy_seconds_total", "Computing frames",
                     seconds(times.busy_us), labels);
        page.counter("coordinator_worker_queue_seconds_total", "Frames waited there",
                     seconds(times.queue_us), labels);
        page.counter("coordinator_worker_route_seconds_total",
                     "Its routes had frames on their way; busy by this is 1 less the bubble",
                     seconds(times.work_us), labels);
    }
    for (const std::string& name : known) {
        const bool is_healthy = healthy.contains(name);
        page.gauge(is_healthy ? "coordinator_active_workers" : "coordinator_unhealthy_workers",
                   is_healthy ? "1 for each worker that is ready"
                              : "1 for each worker that is loading, draining or gone",
                   1, {{"worker_id", name}});
    }
}

void add_routes(Exposition& page, const wire::RouteStatus& route) {
    const Exposition::Labels labels = {{"generation", std::to_string(route.generation)}};
    page.gauge("coordinator_route_up", "1 for a route that takes sequences", route.up ? 1 : 0,
               labels);
    page.gauge("coordinator_route_sequences", "Sequences on the route", route.running, labels);
    const auto add = [&](const char* counter, const char* name, const char* help) {
        for (const wire::Counter& entry : route.counters)
            if (entry.name == counter)
                page.gauge(name, help, static_cast<double>(entry.value), labels);
    };
    add("in_flight", "coordinator_route_frames_in_flight", "Frames without a RESULT");
    add("credit_frames", "coordinator_route_credit_frames", "Frames in a worker's hands, at most");
    add("kv_blocks", "coordinator_kv_blocks", "KV blocks of the route, 64 positions each");
    add("kv_held", "coordinator_kv_blocks_used", "Of these, held by sequences or the prefix cache");
    add("kv_cached", "coordinator_kv_blocks_cached", "Of these, held by the prefix cache alone");
    add("kv_hits", "coordinator_prefix_hits_blocks", "Blocks found in the route's prefix cache");
    add("kv_evictions", "coordinator_kv_evictions_blocks", "Blocks that its prefix cache gave up");
}

}  // namespace

void add_router_metrics(Exposition& page, const Router& router) {
    const wire::StatusReply status = router.status();
    add_inference(page, router);
    page.counter("coordinator_requests_routed_total",
                 "Sequences that got a place on a route, each time",
                 static_cast<double>(router.metrics().requests_routed));
    add_workers(page, router);
    page.gauge("coordinator_ready", "1 when a route takes requests", status.ready ? 1 : 0);
    page.gauge("coordinator_requests_running", "Sequences on routes", status.running);
    page.gauge("coordinator_requests_waiting", "Requests without a place", status.waiting);
    page.gauge("coordinator_backlog_bytes", "What waits for clients that read slowly",
               static_cast<double>(status.backlog_bytes));
    page.counter("coordinator_wire_seconds_total",
                 "Of all frames together: neither computed nor queued at a worker",
                 seconds(router.metrics().wire_us));
    page.histogram("coordinator_decode_rows", "Decode rows of frames that have any",
                   router.histograms().decode_rows);
    for (const wire::RouteStatus& route : status.routes) add_routes(page, route);
    for (const wire::Counter& counter : status.counters) {
        page.counter("coordinator_" + counter.name + "_total",
                     "As STATUS names it (docs/protocol.md, What is counted)",
                     static_cast<double>(counter.value));
    }
    for (const wire::Counter& error : status.errors)
        page.counter("coordinator_errors_total", "ERROR messages by code",
                     static_cast<double>(error.value), {{"code", error.name}});
}

}  // namespace chatloop::actors
