// Configuration files of the three roles: settings within their bounds, or one line.
#include "chatloop/core/config.hpp"

#include "chatloop/core/assert.hpp"
#include "chatloop/core/cpu_list.hpp"
#include "target.hpp"

namespace chatloop::fuzz {

std::vector<Bytes> seeds() {
    return {
        bytes_of("model:\n  path: /srv/model\n  partition: 0\nworker: {worker_id: a, "
                 "layer_group: {start_layer: 0, end_layer: 8}, cpu_cores: '0-3,6'}\n"
                 "bus:\n  listen: tcp://127.0.0.1:1\n  routers: [a, b]\n"
                 "performance: {kv_cache_mb: 1024, enable_simd: true, kernels: auto}\n"),
        bytes_of("batching:\n  max_batch_size: 32\n  batching_window_ms: 2.5\n"
                 "bus: {front: 'x', client_silence_secs: 1e1}\nfailure_threshold: 5\n"
                 "health_check_interval_secs: 0.2 # often\nobservability: {log_level: \"warn\"}\n"),
        bytes_of("a: &x [1, *x]\n--- !!map\n? k\n: |\n  text\n"),
    };
}

namespace {

void check(std::string_view text, RoleBit role) {
    const auto file = parse_config(text, "file", role);
    if (!file) {
        CL_ASSERT(file.error().message.find('\n') == std::string::npos);
        CL_ASSERT(file.error().message.size() < 1000);
        return;
    }
    const auto none = [](const char*) -> const char* { return nullptr; };
    const auto settings = Settings::resolve(role, *file, none, {});
    if (!settings) {
        CL_ASSERT(settings.error().message.find('\n') == std::string::npos);
        return;
    }
    for (const Setting& setting : all_settings()) {
        if ((setting.roles & role) == 0 || !settings->has(setting.path)) continue;
        if (setting.kind == SettingKind::kInteger) {
            const auto value = static_cast<double>(settings->integer(setting.path));
            CL_ASSERT(value >= setting.min && value <= setting.max);
        }
        if (setting.kind == SettingKind::kNumber) {
            const double value = settings->number(setting.path);
            CL_ASSERT(value >= setting.min && value <= setting.max);
        }
    }
    if (settings->has("worker.cpu_cores")) {
        const auto cpus = parse_cpu_list(settings->text("worker.cpu_cores"));
        if (cpus) CL_ASSERT(*parse_cpu_list(cpu_list_text(*cpus)) == *cpus);
    }
}

}  // namespace
}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const RoleBit role : {kRouterRole, kStageRole, kSamplerRole}) fuzz::check(text, role);
    return 0;
}
