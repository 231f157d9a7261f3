#include "chatloop/core/config.hpp"

#include <doctest/doctest.h>

#include <map>
#include <set>

using namespace chatloop;

namespace {

using Environment = std::map<std::string, std::string>;

Result<Settings> resolve(RoleBit role, std::string_view yaml, const Environment& environment = {},
                         const std::vector<RawSetting>& flags = {}) {
    const Result<std::vector<RawSetting>> file = parse_config(yaml, "f.yaml", role);
    if (!file) return file.error();
    return Settings::resolve(
        role, *file,
        [&](const char* name) -> const char* {
            const auto found = environment.find(name);
            return found == environment.end() ? nullptr : found->second.c_str();
        },
        flags);
}

std::string refusal(RoleBit role, std::string_view yaml) {
    const Result<Settings> settings = resolve(role, yaml);
    REQUIRE_FALSE(settings.ok());
    const std::string& message = settings.error().message;
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 400);
    return message;
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("defaults hold where nothing is said") {
    for (const RoleBit role : {kRouterRole, kStageRole, kSamplerRole}) {
        for (const char* yaml : {"", "{}", "# nothing\n", "performance:\n", "---\n"}) {
            if (role == kRouterRole && std::string(yaml) == "performance:\n") continue;
            const auto settings = resolve(role, yaml);
            REQUIRE(settings.ok());
            CHECK(settings->text("observability.log_level") == "info");
            CHECK_FALSE(settings->given("observability.log_level"));
            CHECK_FALSE(settings->has("model.path"));
        }
    }
}

TEST_CASE("the seed's worker configuration keeps its names and meaning") {
    const auto settings = resolve(kStageRole, R"(
worker:
  worker_id: "worker-0"
  layer_group:
    start_layer: 0
    end_layer: 8
  weights_path: "/models/partition_0.safetensors"
  enable_cpu_pinning: true
  cpu_cores: "0-15"
  numa_node: 0  # a comment
performance:
  enable_simd: true
  kv_cache_mb: 1024
  preallocate_activations: true
observability:
  log_level: "debug"
  otel_endpoint: "http://jaeger:4317"
)");
    REQUIRE(settings.ok());
    CHECK(settings->text("worker.worker_id") == "worker-0");
    CHECK(settings->integer("worker.layer_group.end_layer") == 8);
    CHECK(settings->text("worker.weights_path") == "/models/partition_0.safetensors");
    CHECK(settings->flag("worker.enable_cpu_pinning"));
    CHECK(settings->text("worker.cpu_cores") == "0-15");
    CHECK(settings->integer("performance.kv_cache_mb") == 1024);
    CHECK(settings->text("observability.log_level") == "debug");
    CHECK(settings->seconds("drain_timeout_secs") == 20 * kSecondUs);
    CHECK(settings->origin("performance.kv_cache_mb") == "f.yaml:13: performance.kv_cache_mb");
}

TEST_CASE("the command line goes before the environment, the environment before the file") {
    const std::string_view yaml = "performance: {kv_cache_mb: 1, max_sequences: 2}\n"
                                  "bus: {listen: 'tcp://127.0.0.1:1', routers: [a, b]}";
    const Environment environment = {{"CHATLOOP_PERFORMANCE_KV_CACHE_MB", "10"},
                                     {"CHATLOOP_PERFORMANCE_MAX_SEQUENCES", "20"},
                                     {"CHATLOOP_BUS_ROUTERS", "c,d,e"},
                                     {"CHATLOOP_WORKER_ID", "w"},
                                     {"CHATLOOP_BATCHING_PREFILL_ROWS", "a router's"}};
    const auto settings =
        resolve(kStageRole, yaml, environment,
                {{&setting_of("performance.kv_cache_mb"), {"100"}, "--kv-cache-mb"}});
    REQUIRE(settings.ok());
    CHECK(settings->integer("performance.kv_cache_mb") == 100);
    CHECK(settings->origin("performance.kv_cache_mb") == "--kv-cache-mb");
    CHECK(settings->integer("performance.max_sequences") == 20);
    CHECK(settings->origin("performance.max_sequences") == "CHATLOOP_PERFORMANCE_MAX_SEQUENCES");
    CHECK(settings->texts("bus.routers") == std::vector<std::string>{"c", "d", "e"});
    CHECK(settings->text("bus.listen") == "tcp://127.0.0.1:1");
    CHECK(settings->text("worker.worker_id") == "w");
}

TEST_CASE("an unknown key is named with its line and the nearest known one") {
    struct Row {
        RoleBit role;
        const char* yaml;
        const char* said;
    };
    for (const Row& row : {
             Row{kStageRole, "\nperformance:\n  kv_cahce_mb: 5\n",
                 "f.yaml:3: performance.kv_cahce_mb is not known: did you mean "
                 "performance.kv_cache_mb?"},
             Row{kStageRole, "kv_cache_mb: 5", "did you mean performance.kv_cache_mb?"},
             Row{kStageRole, "worker: {cpu_core: 1}", "did you mean worker.cpu_cores?"},
             Row{kStageRole, "worker: {zebra: 1}", "worker.zebra is not known: see docs"},
             Row{kStageRole, "grpc: {compression: gzip}", "bus.listen"},
             Row{kStageRole, "worker: {batching: {max_batch_size: 32}}", "router.yaml"},
             Row{kStageRole, "batching: {max_batch_size: 32}", "belongs in a router's file"},
             Row{kRouterRole, "worker: {worker_id: a}", "belongs in a stage's file"},
             Row{kRouterRole, "failure_treshold: 5", "did you mean failure_threshold?"},
             Row{kSamplerRole, "performance: {kv_cache_mb: 5}", "belongs in a stage's file"},
         }) {
        CAPTURE(row.yaml);
        const std::string said = refusal(row.role, row.yaml);
        CAPTURE(said);
        CHECK(contains(said, row.said));
    }
}

TEST_CASE("what is no configuration is refused with its line") {
    const std::string deep(5000, '[');
    const std::string large(100000, ' ');
    for (const std::string& yaml : std::vector<std::string>{
             "a: b: c", "\t- x", "[1, 2]", "text", "a: [", "\"", "? {a: b}\n: c", deep, large,
             "model: {path: a}\n---\nmodel: {path: b}", "model: {path: a, path: b}",
             "model: {path: {}}", "model: {path: [a]}", "model: {path: }", "model: {path: ~}",
             "model: text", "bus: {routers: []}", "bus: {routers: [[a]]}",
             "bus: {routers: {a: b}}", "&a [*a]", "*unknown", "model: &m {path: *m}",
             std::string("model: {path: \"a\\0b\"}"), "model: {path: \"a\\nb\"}",
             "model: {path: ''}"}) {
        CAPTURE(yaml.substr(0, 80));
        refusal(kStageRole, yaml);
    }
    CHECK(contains(refusal(kStageRole, "model:\n  path: a\n  path: b\n"), "f.yaml:3: model.path"));
    CHECK(contains(refusal(kStageRole, "\n\na: b: c"), "f.yaml:3: not YAML"));
}

TEST_CASE("impossible values are refused with their origin and their bounds") {
    const auto said = [](const char* yaml) { return refusal(kRouterRole, yaml); };
    CHECK(said("batching: {max_batch_size: 0}") ==
          "f.yaml:1: batching.max_batch_size: '0' is not an integer from 1 to 256");
    for (const char* value : {"-1", "257", "1.5", "1e1", "many", "99999999999999999999", "0x10",
                              "' 1'", "true", "nan"}) {
        CAPTURE(value);
        CHECK(contains(said(("batching: {max_batch_size: " + std::string(value) + "}").c_str()),
                       "an integer from 1 to 256"));
    }
    for (const char* value : {"0", "61", "-0.1", "nan", "inf", "fast", "1e999"}) {
        CAPTURE(value);
        CHECK(contains(said(("health_check_interval_secs: " + std::string(value)).c_str()),
                       "a number from 0.01 to 60"));
    }
    CHECK(contains(said("observability: {log_level: loud}"), "debug|info|warn|error"));
    CHECK(contains(said("worker: {enable_cpu_pinning: yes}"), "true or false"));
}

TEST_CASE("a value that is missing is asked for in all its ways") {
    const auto settings = resolve(kStageRole, "");
    REQUIRE(settings.ok());
    const auto name = settings->required("worker.worker_id");
    REQUIRE_FALSE(name.ok());
    for (const char* way : {"worker.worker_id", "CHATLOOP_WORKER_ID", "--name"})
        CHECK(contains(name.error().message, way));
}

TEST_CASE("the table of keys is sound") {
    for (const RoleBit role : {kRouterRole, kStageRole, kSamplerRole}) {
        std::set<std::string> paths, flags, variables;
        for (const Setting& setting : all_settings()) {
            if ((setting.roles & role) == 0) continue;
            CAPTURE(setting.path);
            CHECK(paths.insert(setting.path).second);
            CHECK(variables.insert(environment_name(setting)).second);
            if (setting.flag[0] != '\0') CHECK(flags.insert(setting.flag).second);
        }
        CHECK(resolve(role, "").ok());  // the defaults are within their own bounds
    }
}
