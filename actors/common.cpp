#include "common.hpp"

#include <sys/random.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "chatloop/model/file_check.hpp"
#include "chatloop/model/fingerprint.hpp"
#include "chatloop/model/memory_fit.hpp"
#include "version.hpp"

namespace chatloop::actors {

ExitCode exit_code(const Error& error) {
    if (error.code == ErrorCode::kPortInUse) return kPortInUse;
    if (error.code == ErrorCode::kInternal) return kInternal;
    return kConfig;
}

void die(const std::string& actor, const Error& error) {
    std::fprintf(stderr, "%s: %s\n", actor.c_str(), error.message.c_str());
    std::exit(exit_code(error));
}

void parse_or_exit(CLI::App& app, const std::string& actor, int argc, char** argv) {
    app.set_version_flag("--version", actor + " " + kVersion, "print the version");
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& help) {
        std::exit(app.exit(help));
    } catch (const CLI::ParseError& error) {
        std::string what = error.what();
        std::replace(what.begin(), what.end(), '\n', ' ');
        die(actor, {ErrorCode::kInvalidRequest, what + "; see --help"});
    }
}

Result<const kernel::Kernels*> choose_kernels(const std::string& name,
                                              const kernel::CpuFeatures& features,
                                              const std::string& origin) {
    if (!features.avx2 || !features.fma || !features.f16c) {
        return Error{ErrorCode::kUnsupported,
                     "this CPU lacks AVX2, FMA or F16C, which ChatLoop needs; use a machine with "
                     "an Intel Haswell, AMD Excavator or newer CPU (in a VM: pass the host CPU)"};
    }
    const kernel::Kernels* kernels = kernel::find_kernels(name.c_str(), features);
    if (kernels == nullptr)
        return Error{ErrorCode::kUnsupported,
                     origin + " " + name + ": not a table, or this CPU lacks it; one of auto, "
                     "avx512vnni, avx512, avx2, reference"};
    if (!kernel::mxcsr_is_default())
        return Error{ErrorCode::kUnsupported,
                     "the floating-point unit is not in its default mode (a library has changed "
                     "MXCSR): results would not be exact"};
    if (kernel::self_test(*kernels) != kernel::kSelfTestDigest)
        return Error{ErrorCode::kInternal,
                     std::string("the arithmetic self-test of the ") + kernels->name +
                         " kernels failed: this CPU or build would give other tokens"};
    return kernels;
}

uint64_t random_u64() {
    uint64_t value = 0;
    CL_ASSERT(getrandom(&value, sizeof value, 0) == sizeof value);
    return value == 0 ? 1 : value;
}

WeightPages weight_pages(const std::string& name) {
    return name == "huge" ? WeightPages::kHuge : WeightPages::kMapped;
}

kernel::KvType kv_type(const std::string& name) {
    return name == "int8" ? kernel::KvType::kInt8 : kernel::KvType::kF16;
}

Result<StageModel> open_stage(const std::string& model_dir, const ModelSpec& spec,
                              int32_t layer_first, int32_t layer_end,
                              const MemoryOptions& options) {
    StageModel model;
    Result<Checkpoint> checkpoint =
        Checkpoint::open_layers(model_dir, spec, layer_first, layer_end, options.weights);
    if (!checkpoint) return checkpoint.error();
    model.checkpoint = std::make_unique<Checkpoint>(std::move(*checkpoint));
    Result<KvPool> pool = KvPool::create(spec, layer_end - layer_first, options.kv_cache_mb,
                                         options.kv_type);
    if (!pool) return pool.error();
    model.pool = std::make_unique<KvPool>(std::move(*pool));
    return model;
}

Result<HeadModel> open_head(const std::string& model_dir, const ModelSpec& spec,
                            const MemoryOptions& options) {
    HeadModel model;
    Result<Checkpoint> checkpoint = Checkpoint::open_head(model_dir, spec, options.weights);
    if (!checkpoint) return checkpoint.error();
    model.checkpoint = std::make_unique<Checkpoint>(std::move(*checkpoint));
    return model;
}

// Rows of a unit such that one layer of them is predicted under the unit target, from a cautious
// guess of the table's speed. It changes no bit, only how often the loop looks at its sockets.
static LayerStackOptions stack_options(const ModelSpec& spec, const kernel::Kernels& kernels) {
    const double macs_per_us = std::string(kernels.name) == "reference" ? 300.0 : 15'000.0;
    const double q = spec.q_width();
    const double macs_per_row = static_cast<double>(spec.hidden_size) *
                                (2.0 * q + 2.0 * spec.kv_width() + 3.0 * spec.ffn_size);
    const double rows = static_cast<double>(kUnitTargetUs) * macs_per_us / macs_per_row;
    LayerStackOptions options;
    options.unit_rows = static_cast<uint32_t>(std::clamp(rows, 1.0, 128.0));
    return options;
}

Status check_memory(const ModelSpec& spec, std::span<const StageModel> stages,
                    const HeadModel& head, const kernel::Kernels& kernels,
                    const MemoryOptions& options) {
    // Frames in the queues, code, stack, and what the allocator keeps.
    constexpr uint64_t kProcessBytes = kShareBytesMax + (64u << 20);
    MemoryNeed need;
    need.activations = kProcessBytes;
    const Checkpoint* largest = nullptr;
    const auto add_weights = [&](const Checkpoint& checkpoint) {
        need.weights += checkpoint.mapped_bytes();
        need.copies += checkpoint.copied_bytes();
        const auto bytes = [](const Checkpoint& c) { return c.mapped_bytes() + c.copied_bytes(); };
        if (largest == nullptr || bytes(checkpoint) > bytes(*largest)) largest = &checkpoint;
    };
    for (const StageModel& stage : stages) {
        if (stage.checkpoint == nullptr) continue;
        add_weights(*stage.checkpoint);
        need.kv_cache += stage.pool->bytes();
        need.activations += LayerStack::scratch_bytes(spec, stack_options(spec, kernels));
    }
    if (head.checkpoint != nullptr) {
        add_weights(*head.checkpoint);
        need.activations += Head::scratch_bytes(spec);
    }
    CL_ASSERT(largest != nullptr);
    return check_memory_fit(need, available_memory(options.numa_node), options.allow_paging,
                            largest->largest_file());
}

void finish_stage(StageModel& model, const ModelSpec& spec, const kernel::Kernels& kernels,
                  const MemoryOptions& options) {
    LayerStackOptions stack = stack_options(spec, kernels);
    stack.preallocate = options.preallocate;
    model.stack =
        std::make_unique<LayerStack>(spec, *model.checkpoint, *model.pool, kernels, stack);
}

void finish_head(HeadModel& model, const ModelSpec& spec, const kernel::Kernels& kernels,
                 const MemoryOptions& options) {
    HeadOptions head;
    head.preallocate = options.preallocate;
    model.head = std::make_unique<Head>(spec, *model.checkpoint, kernels, head);
}

static std::string huge_page_setting() {
    std::ifstream in("/sys/kernel/mm/transparent_hugepage/enabled");
    std::string modes;
    return std::getline(in, modes) ? modes : "none";
}

WeightReport report_weights(std::span<const StageModel> stages, const HeadModel& head) {
    uint64_t mapped = 0;
    PrivateMemory::Resident copy;
    const auto add = [&](const Checkpoint* checkpoint) {
        if (checkpoint == nullptr) return;
        const PrivateMemory::Resident one = checkpoint->copy();
        mapped += checkpoint->mapped_bytes();
        copy.bytes += one.bytes;
        copy.huge_bytes += one.huge_bytes;
    };
    for (const StageModel& stage : stages) add(stage.checkpoint.get());
    add(head.checkpoint.get());
    const std::string size = mebibytes(mapped + copy.bytes) + " of weights ";
    if (copy.bytes == 0) return {size + "mapped from the files", ""};
    if (copy.huge_bytes * 10 >= copy.bytes * 9) return {size + "in 2-MiB pages", ""};
    WeightReport report;
    report.text = size + "in a copy, " + mebibytes(copy.huge_bytes) + " of it in 2-MiB pages";
    if (copy.bytes < kHugePageBytes) return report;  // too small for any
    report.warning = "--weights huge: " + report.text +
                     ": memory is fragmented, or huge pages are off "
                     "(transparent_hugepage/enabled: " +
                     huge_page_setting() + "): free memory, or set it to madvise";
    return report;
}

Status check_vocabulary(const std::string& model_dir, const ModelSpec& spec, int32_t token_ids) {
    if (token_ids <= spec.vocab_size) return Ok{};
    return Error{ErrorCode::kBadFile,
                 model_dir + "/tokenizer/tokenizer.json: of another vocabulary: it has " +
                     std::to_string(token_ids) + " ids, the model " +
                     std::to_string(spec.vocab_size) + "; copy all files of one split"};
}

Result<std::unique_ptr<TextEngine>> open_text(const std::string& model_dir,
                                              const ModelSpec& spec) {
    for (const FileEntry& file : spec.tokenizer_files) {
        if (Status sound = verify_file(model_dir, file); !sound) return sound.error();
    }
    Result<std::unique_ptr<TextEngine>> text = load_text_engine(model_dir + "/tokenizer");
    if (!text) return text;
    const Status fits = check_vocabulary(model_dir, spec, (*text)->vocab_size());
    if (!fits) return fits.error();
    return text;
}

uint32_t blocks_per_slot(const ModelSpec& spec) {
    return static_cast<uint32_t>(spec.context_length) / kernel::kBlockPositions;
}

RouterConfig router_config(const ModelSpec& spec, kernel::KvType kv_type, RouterConfig config) {
    config.model_name = spec.model_name;
    config.context_length = blocks_per_slot(spec) * kernel::kBlockPositions;
    config.add_bos = spec.add_bos;
    config.bos_id = spec.bos_id >= 0 ? static_cast<uint32_t>(spec.bos_id) : 0;
    for (const int32_t id : spec.stop_ids) config.stop_ids.push_back(static_cast<uint32_t>(id));
    config.cluster.model_id = spec.model_id;
    config.cluster.cut_id = spec.cut_id;
    config.cluster.fingerprint = numerics_fingerprint(spec, kv_type).value;
    config.cluster.sampler_fingerprint = numerics_fingerprint(spec, std::nullopt).value;
    config.cluster.kv_cache_dtype = kv_type_name(kv_type);
    config.cluster.self_test = kernel::kSelfTestDigest;
    config.cluster.layers = static_cast<uint32_t>(spec.n_layers);
    config.cluster.width = static_cast<uint32_t>(spec.hidden_size);
    config.cluster.vocab = static_cast<uint32_t>(spec.vocab_size);
    return config;
}

}  // namespace chatloop::actors
