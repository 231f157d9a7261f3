// Every key of every configuration file, in the order of docs/configuration.md.
#include <algorithm>
#include <array>
#include <cctype>

#include "chatloop/core/config.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

namespace {

using enum SettingKind;

constexpr Setting text(const char* path, const char* flag, uint8_t roles, const char* fallback,
                       const char* help) {
    return {path, flag, roles, kText, 0, 0, "", fallback, help};
}
constexpr Setting texts(const char* path, const char* flag, uint8_t roles, const char* fallback,
                        const char* help) {
    return {path, flag, roles, kTexts, 0, 0, "", fallback, help};
}
constexpr Setting choice(const char* path, const char* flag, uint8_t roles, const char* choices,
                         const char* fallback, const char* help) {
    return {path, flag, roles, kChoice, 0, 0, choices, fallback, help};
}
constexpr Setting integer(const char* path, const char* flag, uint8_t roles, double min, double max,
                          const char* fallback, const char* help) {
    return {path, flag, roles, kInteger, min, max, "", fallback, help};
}
constexpr Setting number(const char* path, const char* flag, uint8_t roles, double min, double max,
                         const char* fallback, const char* help) {
    return {path, flag, roles, kNumber, min, max, "", fallback, help};
}
constexpr Setting on_off(const char* path, const char* flag, uint8_t roles, const char* fallback,
                         const char* help) {
    return {path, flag, roles, kSwitch, 0, 0, "", fallback, help};
}

constexpr std::array kSettings = {
    text("model.path", "--model", kAllRoles, "", "model directory"),
    integer("model.partition", "--partition", kStageRole, 0, 4095, "",
            "the layers of this partition of the model directory"),
    on_off("model.allow_paging", "--allow-paging", kWorkerRoles, "false",
           "start although the weights do not fit into memory"),

    text("router.router_id", "--name", kRouterRole, "router-0", "this router's name"),
    text("worker.worker_id", "--name", kWorkerRoles, "", "unique among the workers"),
    integer("worker.layer_group.start_layer", "", kStageRole, 0, 4095, "", "first layer"),
    integer("worker.layer_group.end_layer", "", kStageRole, 1, 4096, "", "behind the last layer"),
    text("worker.weights_path", "", kWorkerRoles, "",
         "a partition file: gives model.path and model.partition"),
    on_off("worker.with_sampler", "--with-sampler", kStageRole, "false",
           "this process is the sampler, too"),
    text("worker.with_router", "--with-router", kStageRole, "",
         "a router's file: this process is that router, too"),
    on_off("worker.enable_cpu_pinning", "--enable-cpu-pinning", kAllRoles, "false",
           "run on worker.cpu_cores only"),
    text("worker.cpu_cores", "--cpu-cores", kAllRoles, "", "CPUs, e.g. 0-3,6"),
    text("worker.io_cpu_cores", "--io-cpu-cores", kAllRoles, "",
         "CPUs of libzmq's threads; default: off those the process is pinned to"),
    integer("worker.numa_node", "--numa-node", kAllRoles, 0, kNumaNodesMax - 1, "",
            "take memory of this NUMA node, and run there"),

    text("bus.ctrl", "--ctrl", kRouterRole, "tcp://127.0.0.1:7100", "bind: control of the workers"),
    text("bus.front", "--front", kRouterRole, "tcp://127.0.0.1:7101", "bind: clients"),
    text("bus.result", "--result", kRouterRole, "tcp://127.0.0.1:7102",
         "bind: results; workers connect to it"),
    text("bus.listen", "--listen", kWorkerRoles, "",
         "bind: frames; peers connect to this address"),
    texts("bus.routers", "--router", kWorkerRoles, "tcp://127.0.0.1:7100",
          "control endpoints of the routers"),
    number("bus.client_silence_secs", "--client-silence-secs", kRouterRole, 0.1, 86400, "30",
           "a client that is silent for so long is gone"),

    text("http.bind", "--http", kRouterRole, "",
         "bind: the HTTP API, ADDRESS:PORT; without it there is none"),
    text("http.api_keys_file", "--api-keys-file", kRouterRole, "",
         "keys of which HTTP clients must have one, a line each"),
    text("http.journal_dir", "--journal-dir", kRouterRole, "",
         "folder: resumable streams outlive the router's process"),
    text("metrics.bind", "--metrics", kAllRoles, "127.0.0.1:9091+",
         "bind: /metrics and /healthz, ADDRESS:PORT; PORT+: or the first free above; off: none"),

    integer("batching.max_batch_size", "--max-batch-size", kRouterRole, 1, kFrameItemsMax, "32",
            "decode rows per frame"),
    integer("batching.prefill_rows", "--prefill-rows", kRouterRole, 1,
            kFrameRowsMax - kFrameItemsMax, "256", "prompt rows per frame, whatever they cost"),
    number("batching.prefill_slice_ms", "--prefill-slice-ms", kRouterRole, 1, 10'000, "20",
           "time of a frame with prompt rows, on its slowest stage"),
    integer("batching.frames_in_flight", "--frames-in-flight", kRouterRole, 0, kShareFramesMax, "0",
            "frames at once on a route, 0: one for each stage"),
    integer("batching.max_queue_size", "--max-queue-size", kRouterRole, 1, 1 << 20, "512",
            "requests that may wait"),
    integer("batching.max_sequences", "--route-sequences", kRouterRole, 0, kSlotsMax, "0",
            "sequences at once on a route, 0: four times max_batch_size"),
    number("batching.batching_window_ms", "--batching-window-ms", kRouterRole, 0, 1000, "2",
           "how long a frame that is not full waits for company"),
    number("batching.queue_timeout_ms", "--queue-timeout-ms", kRouterRole, 0, 86'400'000, "0",
           "how long a request may wait for a place, 0: as long as it takes"),
    integer("batching.kv_headroom_tokens", "--kv-headroom-tokens", kRouterRole, 0, 1 << 20, "256",
            "KV positions that are reserved behind a prompt"),
    on_off("batching.prefix_cache", "--prefix-cache", kRouterRole, "true",
           "keep the KV blocks of what was computed, for prompts that begin alike"),

    integer("performance.kv_cache_mb", "--kv-cache-mb", kStageRole, 1, 1 << 24, "512",
            "KV cache, MiB"),
    choice("performance.kv_cache_dtype", "--kv-cache-dtype", kRouterRole | kStageRole,
           "f16|fp16|int8", "f16", "of keys and values in the KV cache; one for all"),
    integer("performance.max_sequences", "--max-sequences", kStageRole, 1, kSlotsMax, "128",
            "sequences at once"),
    on_off("performance.enable_simd", "", kWorkerRoles, "true", "false: the scalar kernels"),
    choice("performance.kernels", "--kernels", kWorkerRoles,
           "auto|avx512vnni|avx512|avx2|reference", "auto", "which kernels compute"),
    choice("performance.weights", "--weights", kWorkerRoles, "mmap|huge", "mmap",
           "mapped from the files, or a private copy in 2-MiB pages"),
    on_off("performance.preallocate_activations", "", kWorkerRoles, "true",
           "take the activations' memory at the start"),

    choice("observability.log_level", "--log-level", kAllRoles, "debug|info|warn|error", "info",
           "what is logged"),
    choice("observability.log_format", "--log-format", kAllRoles, "auto|json|text", "auto",
           "JSON lines, or text for people; auto: text on a terminal"),
    text("observability.otel_endpoint", "", kAllRoles, "",
         "OpenTelemetry collector that traces are for, http://HOST:4317; of the router"),
    text("observability.exporter", "", kRouterRole, "tcp://127.0.0.1:7103",
         "where python -m chatloop.telemetry listens, which takes them there"),
    number("observability.trace_ratio", "", kRouterRole, 0, 1, "0.1",
           "part of the requests without a traceparent whose trace is exported"),

    number("health_check_interval_secs", "--health-check-interval-secs", kRouterRole, 0.01, 60,
           "0.2", "heartbeats, both ways"),
    integer("failure_threshold", "--failure-threshold", kRouterRole, 2, 1000, "4",
            "silent intervals until a worker is taken for dead"),
    number("route_wait_secs", "--route-wait-secs", kRouterRole, 0, 86400, "60",
           "how long a request may wait for workers"),
    number("drain_timeout_secs", "--drain-timeout-secs", kRouterRole, 0, 3600, "30",
           "requests have so long to finish after SIGTERM"),
    number("drain_timeout_secs", "--drain-timeout-secs", kWorkerRoles, 0, 3600, "20",
           "routers have so long to let go after SIGTERM"),
};

}  // namespace

std::span<const Setting> all_settings() { return kSettings; }

const Setting& setting_of(std::string_view path) {
    const auto found = std::find_if(kSettings.begin(), kSettings.end(),
                                    [path](const Setting& s) { return path == s.path; });
    CL_ASSERT(found != kSettings.end());
    return *found;
}

std::string environment_name(const Setting& setting) {
    std::string_view path = setting.path;
    for (const std::string_view section : {"worker.", "router."})
        if (path.starts_with(section)) path.remove_prefix(section.size());
    std::string name = "CHATLOOP_";
    for (const char c : path)
        name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    return name;
}

}  // namespace chatloop
