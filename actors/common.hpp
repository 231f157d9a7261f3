// What the four binaries share: exit codes, logs, and a model's parts brought up from its
// directory.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "chatloop/core/result.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/checkpoint.hpp"
#include "chatloop/model/head.hpp"
#include "chatloop/model/kv_pool.hpp"
#include "chatloop/model/layer_stack.hpp"
#include "chatloop/model/spec.hpp"
#include "chatloop/router/router.hpp"
#include "chatloop/text/text.hpp"
#include "log.hpp"

namespace CLI {
class App;
}

namespace chatloop::actors {

enum ExitCode : int { kDrained = 0, kConfig = 64, kPortInUse = 65, kKeys = 66, kInternal = 70 };

// 64 for what a file or an option got wrong, 65 for a port, 70 for the rest.
ExitCode exit_code(const Error& error);

// Ends the process with one line, cause and cure, on stderr.
[[noreturn]] void die(const std::string& actor, const Error& error);

// The value, or the end of the process.
template <class T>
T value_or_die(const std::string& actor, Result<T> result) {
    if (!result) die(actor, result.error());
    return std::move(result.value());
}

// Reads the command line, or ends the process: after --help with 0, else with one line and kConfig.
void parse_or_exit(CLI::App& app, const std::string& actor, int argc, char** argv);

// The CPU has what the kernels need, and computes what they must (self-test); kUnsupported if not,
// with the setting that named them.
Result<const kernel::Kernels*> choose_kernels(
    const std::string& name, const kernel::CpuFeatures& features = kernel::cpu_features(),
    const std::string& origin = "--kernels");

uint64_t random_u64();  // from the system

// A stage's weights, cache and compute.
struct StageModel {
    std::unique_ptr<Checkpoint> checkpoint;
    std::unique_ptr<KvPool> pool;
    std::unique_ptr<LayerStack> stack;
};
struct HeadModel {
    std::unique_ptr<Checkpoint> checkpoint;
    std::unique_ptr<Head> head;
};

// How a process holds its model.
struct MemoryOptions {
    WeightPages weights = WeightPages::kMapped;
    bool preallocate = true;  // the activations' memory
    uint64_t kv_cache_mb = 0;
    kernel::KvType kv_type = kernel::KvType::kF16;
    bool allow_paging = false;  // weights may exceed the memory
    std::optional<int> numa_node;
};
WeightPages weight_pages(const std::string& name);  // a value of performance.weights
kernel::KvType kv_type(const std::string& name);    // of performance.kv_cache_dtype

// Opens without touching pages.
Result<StageModel> open_stage(const std::string& model_dir, const ModelSpec& spec,
                              int32_t layer_first, int32_t layer_end,
                              const MemoryOptions& options);
Result<HeadModel> open_head(const std::string& model_dir, const ModelSpec& spec,
                            const MemoryOptions& options);
// Before pages are touched: whether all parts of a process fit into memory. Parts may be empty.
Status check_memory(const ModelSpec& spec, std::span<const StageModel> stages,
                    const HeadModel& head, const kernel::Kernels& kernels,
                    const MemoryOptions& options);
// Once the weights are loaded.
void finish_stage(StageModel& model, const ModelSpec& spec, const kernel::Kernels& kernels,
                  const MemoryOptions& options);
void finish_head(HeadModel& model, const ModelSpec& spec, const kernel::Kernels& kernels,
                 const MemoryOptions& options);

// Where the loaded weights of a process are, for people: "76 MiB of weights in 2-MiB pages". The
// warning is empty, or says that huge pages were wanted and not to be had.
struct WeightReport {
    std::string text;
    std::string warning;
};
WeightReport report_weights(std::span<const StageModel> stages, const HeadModel& head);

// The tokenizer of the model directory, if its files are those of the split and it fits the model.
Result<std::unique_ptr<TextEngine>> open_text(const std::string& model_dir,
                                              const ModelSpec& spec);
// kBadFile when the tokenizer of `model_dir` knows ids that a model of `spec` does not.
Status check_vocabulary(const std::string& model_dir, const ModelSpec& spec, int32_t token_ids);

// Positions that a slot's table may name: whole blocks of the context.
uint32_t blocks_per_slot(const ModelSpec& spec);

// `base` with what the model directory says, as the router needs it, and the KV type of its stages.
RouterConfig router_config(const ModelSpec& spec, kernel::KvType kv_type, RouterConfig base = {});

}  // namespace chatloop::actors
