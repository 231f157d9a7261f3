// From settings to a worker's options, and to its layers.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>

#include "command_line.hpp"
#include "worker_node.hpp"

namespace chatloop::actors {

namespace {

constexpr size_t kWorkerNameBytesMax = 64;

Error refused(const std::string& origin, const std::string& what) {
    return {ErrorCode::kInvalidRequest, origin + ": " + what};
}

Status check_name(const Settings& settings, const std::string& name) {
    const auto name_ok = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
    };
    if (name.size() <= kWorkerNameBytesMax && std::all_of(name.begin(), name.end(), name_ok))
        return Ok{};
    return refused(settings.origin("worker.worker_id"),
                   "takes 1 to 64 letters, digits, '-', '_' and '.'");
}

// model.path, or the folder of worker.weights_path.
Status read_model(const Settings& settings, WorkerOptions& options) {
    if (!settings.has("worker.weights_path")) {
        Result<std::string> model = model_path(settings);
        if (!model) return model.error();
        options.model = std::move(*model);
        return Ok{};
    }
    const std::filesystem::path weights = settings.text("worker.weights_path");
    options.weights_file = weights.filename();
    options.weights_origin = settings.origin("worker.weights_path");
    const std::string folder = weights.has_parent_path() ? weights.parent_path().string() : ".";
    options.model = settings.has("model.path") ? settings.text("model.path") : folder;
    const Status there = check_directory(options.weights_origin, folder);
    if (!there) return there;
    std::error_code error;
    if (options.model == folder || std::filesystem::equivalent(options.model, folder, error))
        return Ok{};
    return refused(options.weights_origin,
                   "lies outside of model.path, " + options.model + ": give one of the two");
}

bool parse_layers(const std::string& text, WorkerOptions& options) {
    const char* const end = text.data() + text.size();
    const auto first = std::from_chars(text.data(), end, options.layer_first);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != ':') return false;
    const auto last = std::from_chars(first.ptr + 1, end, options.layer_end);
    return last.ec == std::errc() && last.ptr == end;
}

Status read_layers(const Settings& settings, const std::string& layers, WorkerOptions& options) {
    constexpr const char* kStart = "worker.layer_group.start_layer";
    constexpr const char* kEnd = "worker.layer_group.end_layer";
    if (!layers.empty()) {
        options.layers_origin = "--layers";
        if (parse_layers(layers, options)) return Ok{};
        return refused("--layers", "'" + layers.substr(0, kWorkerNameBytesMax) +
                                       "' is not FIRST:END");
    }
    if (!settings.has(kStart) && !settings.has(kEnd)) return Ok{};
    if (!settings.has(kStart) || !settings.has(kEnd))
        return refused(settings.origin(settings.has(kStart) ? kStart : kEnd),
                       "give both start_layer and end_layer");
    options.layer_first = static_cast<int32_t>(settings.integer(kStart));
    options.layer_end = static_cast<int32_t>(settings.integer(kEnd));
    options.layers_origin = settings.origin(kStart);
    return Ok{};
}

// The router that this process hosts is the first of its routers; the default's place is its.
Status read_router(const Settings& settings, WorkerOptions& options) {
    if (!settings.has("worker.with_router")) return Ok{};
    const Result<Settings> own = hosted_router_settings(settings, options.model);
    if (!own) return own.error();
    Result<RouterOptions> router = router_options(*own);
    if (!router) return router.error();
    const Settings* both[] = {&settings, &*own};
    Result<std::vector<BoundAddress>> bound = check_addresses(both);
    if (!bound) return bound.error();
    options.bound = std::move(*bound);
    options.router = std::move(*router);
    options.warnings = setting_warnings(*own);
    if (!settings.given("bus.routers")) options.routers.clear();
    return Ok{};
}

// The scalar kernels instead of SIMD, or the table that is named.
Result<std::string> kernels_of(const Settings& settings) {
    const std::string& named = settings.text("performance.kernels");
    if (settings.flag("performance.enable_simd")) return named;
    if (named == "auto" || named == "reference") return std::string("reference");
    return refused(settings.origin("performance.enable_simd"),
                   "is false, but performance.kernels is " + named);
}

}  // namespace

Result<WorkerOptions> worker_options(RoleBit role, const Settings& settings,
                                     const std::string& layers) {
    WorkerOptions options;
    options.is_stage = role == kStageRole;
    if (const Status read = read_model(settings, options); !read) return read.error();
    Result<std::string> name = settings.required("worker.worker_id");
    if (!name) return name.error();
    if (const Status good = check_name(settings, *name); !good) return good.error();
    options.name = std::move(*name);
    Result<std::string> listen = settings.required("bus.listen");
    if (!listen) return listen.error();
    options.listen = std::move(*listen);
    options.routers = settings.texts("bus.routers");
    const Settings* own[] = {&settings};
    Result<std::vector<BoundAddress>> bound = check_addresses(own);
    if (!bound) return bound.error();
    options.bound = std::move(*bound);
    Result<std::string> kernels = kernels_of(settings);
    if (!kernels) return kernels.error();
    options.kernels = std::move(*kernels);
    options.kernels_origin = settings.origin("performance.kernels");
    options.memory.weights = weight_pages(settings.text("performance.weights"));
    options.memory.preallocate = settings.flag("performance.preallocate_activations");
    if (settings.has("worker.numa_node"))
        options.memory.numa_node = static_cast<int>(settings.integer("worker.numa_node"));
    options.memory.allow_paging = settings.flag("model.allow_paging");
    options.drain_timeout_us = settings.seconds("drain_timeout_secs");
    options.metrics = metrics_address(settings);
    options.log_level = settings.text("observability.log_level");
    options.log_format = settings.text("observability.log_format");
    if (!options.is_stage) return options;

    if (const Status read = read_layers(settings, layers, options); !read) return read.error();
    if (settings.has("model.partition"))
        options.partition = static_cast<int32_t>(settings.integer("model.partition"));
    options.partition_origin = settings.origin("model.partition");
    options.with_sampler = settings.flag("worker.with_sampler");
    if (const Status read = read_router(settings, options); !read) return read.error();
    options.memory.kv_cache_mb =
        static_cast<uint64_t>(settings.integer("performance.kv_cache_mb"));
    options.memory.kv_type = kv_type(settings.text("performance.kv_cache_dtype"));
    options.max_sequences = static_cast<uint32_t>(settings.integer("performance.max_sequences"));
    return options;
}

Result<LayerRange> layer_range(const WorkerOptions& options, const ModelSpec& spec) {
    const std::string layers = std::to_string(options.layer_first) + ":" +
                               std::to_string(options.layer_end);
    const bool given = !options.layers_origin.empty();
    if (given && (options.layer_first < 0 || options.layer_first >= options.layer_end ||
                  options.layer_end > spec.n_layers))
        return refused(options.layers_origin, layers + " is not FIRST:END within 0:" +
                                                  std::to_string(spec.n_layers));
    const auto& partitions = spec.partitions;
    int32_t index = options.partition;
    if (!options.weights_file.empty()) {
        const auto named =
            std::find_if(partitions.begin(), partitions.end(),
                         [&](const PartitionEntry& p) { return p.file == options.weights_file; });
        if (named == partitions.end())
            return refused(options.weights_origin,
                           options.weights_file + " is no partition of " + kMetadataFile);
        const auto found = static_cast<int32_t>(named - partitions.begin());
        if (index >= 0 && index != found)
            return refused(options.weights_origin, options.weights_file + " is not partition " +
                                                      std::to_string(index));
        index = found;
    } else if (given && index < 0) {
        return LayerRange{options.layer_first, options.layer_end};
    }
    if (index < 0 || index >= static_cast<int32_t>(partitions.size()))
        return refused(options.partition_origin,
                       "must lie in 0.." + std::to_string(partitions.size() - 1) +
                           ": the model directory has " + std::to_string(partitions.size()) +
                           " partitions");
    const PartitionEntry& entry = partitions[static_cast<size_t>(index)];
    const LayerRange range{entry.layer_first, entry.layer_end};
    if (given && (options.layer_first != range.first || options.layer_end != range.end))
        return refused(options.layers_origin,
                       layers + " is not what " + entry.file + " holds, layers " +
                           std::to_string(range.first) + ":" + std::to_string(range.end) +
                           ": drop one of the two");
    return range;
}

}  // namespace chatloop::actors
