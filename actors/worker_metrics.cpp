#include "metrics.hpp"

namespace chatloop::actors {

namespace {

constexpr double kUsPerSecond = 1e6;

void add_role(Exposition& page, const Exposition::Labels& labels, const RoleMetrics& metrics) {
    page.histogram("worker_forward_duration_seconds", "Computing one frame", metrics.forward_s,
                   labels);
    page.histogram("worker_queue_time_seconds", "From a frame's arrival to its first unit",
                   metrics.queue_s, labels);
    page.histogram("worker_batch_size", "Sequences in a frame", metrics.items, labels);
    page.counter("worker_rows_total", "Rows computed", static_cast<double>(metrics.rows), labels);
    page.counter("worker_busy_seconds_total", "Time in units of work",
                 static_cast<double>(metrics.busy_us) / kUsPerSecond, labels);
}

}  // namespace

void add_worker_metrics(Exposition& page, const std::string& name, const Worker& worker,
                        const ProcessUsage& usage) {
    const Exposition::Labels labels = {{"worker_id", name}};
    for (const uint8_t role : {wire::kRoleStage, wire::kRoleSampler}) {
        const RoleMetrics* metrics = worker.metrics(role);
        if (metrics == nullptr) continue;
        const char* text = role == wire::kRoleStage ? "stage" : "sampler";
        add_role(page, {{"worker_id", name}, {"role", text}}, *metrics);
    }
    page.gauge("worker_queue_depth", "Frames queued or running", worker.frames_held(), labels);
    page.gauge("worker_cpu_utilization_percent", "Of one core, over the last second",
               usage.cpu_percent(), labels);
    page.gauge("worker_memory_used_bytes", "Resident memory",
               static_cast<double>(usage.memory_bytes()), labels);
    page.gauge("worker_ready", "1 when its weights are loaded and it takes routes",
               worker.state() == wire::WorkerState::kReady ? 1 : 0, labels);
    page.gauge("worker_routes_installed", "Generations that it holds", worker.routes_installed(),
               labels);
    for (const wire::WorkerCounter& counter : wire::kWorkerCounters) {
        const std::string_view text = counter.name;
        if (text == "cpu_ms" || text == "memory_bytes") continue;
        page.counter("worker_" + std::string(text) + "_total",
                     "As STATUS names it (docs/protocol.md, What is counted)",
                     static_cast<double>(worker.counters().*counter.value), labels);
    }
}

}  // namespace chatloop::actors
