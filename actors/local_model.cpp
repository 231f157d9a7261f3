#include "local_model.hpp"

#include <algorithm>
#include <cstdio>

#include "chatloop/core/limits.hpp"

namespace chatloop::actors {

LocalModel::LocalModel(const std::string& actor, const LocalOptions& given, Router::Log log) {
    LocalOptions options = given;
    MemoryOptions& memory = options.memory;
    kernels_ = value_or_die(actor, choose_kernels(options.kernels));
    spec_ = value_or_die(actor, read_spec(options.model));
    if (options.stages < 1 || options.stages > spec_.n_layers)
        die(actor, {ErrorCode::kInvalidRequest,
                    "--stages must lie in 1.." + std::to_string(spec_.n_layers)});
    text_ = value_or_die(actor, open_text(options.model, spec_));
    memory.weights = weight_pages(options.weights);
    memory.kv_type = kv_type(options.kv_cache_dtype);
    memory.kv_cache_mb = std::max<uint64_t>(1, memory.kv_cache_mb / options.stages);
    RouterConfig& router = config_.router;
    router = router_config(spec_, memory.kv_type);
    router.seed = random_u64();
    router.client_silence_us = kNever;  // its clients are in this process
    router.result_timeout_us = kNever;
    router.prefill_rows = options.prefill_rows;
    router.prefix_cache = options.prefix_cache;
    router.max_batch_size = options.max_batch_size;
    router.max_sequences = options.max_sequences;
    router.frames_in_flight = 1;  // one thread computes one frame at a time
    router.max_queue_size = options.max_queue_size;
    config_.kernels = kernels_;
    config_.hosted_sampler = options.hosted_sampler;
    config_.blocks_per_slot = blocks_per_slot(spec_);
    load_stages(actor, options);
    load_head(actor, memory);
    const WeightReport weights = report_weights(stages_, head_);
    if (!weights.warning.empty())
        std::fprintf(stderr, "%s: %s\n", actor.c_str(), weights.warning.c_str());
    weights_text_ = weights.text;
    cluster_ = std::make_unique<LocalCluster>(config_, *text_, std::move(log));
}

void LocalModel::load_stages(const std::string& actor, const LocalOptions& options) {
    uint32_t blocks = UINT32_MAX;
    for (int32_t i = 0; i < options.stages; ++i) {
        const int32_t first = i * spec_.n_layers / options.stages;
        const int32_t end = (i + 1) * spec_.n_layers / options.stages;
        stages_.push_back(value_or_die(
            actor, open_stage(options.model, spec_, first, end, options.memory)));
        const StageModel& stage = stages_.back();
        blocks = std::min(blocks, stage.pool->blocks());
        bytes_ += stage.checkpoint->mapped_bytes() + stage.checkpoint->copied_bytes() +
                  stage.pool->bytes();
        config_.stages.push_back({nullptr, static_cast<uint32_t>(first),
                                  static_cast<uint32_t>(end)});
    }
    head_ = value_or_die(actor, open_head(options.model, spec_, options.memory));
    bytes_ += head_.checkpoint->mapped_bytes() + head_.checkpoint->copied_bytes();
    value_or_die(actor, check_memory(spec_, stages_, head_, *kernels_, options.memory));
    for (size_t i = 0; i < stages_.size(); ++i) {
        while (!value_or_die(actor, stages_[i].checkpoint->load(kLoadBytes))) {
        }
        if (options.poison_kv) stages_[i].pool->poison();
        finish_stage(stages_[i], spec_, *kernels_, options.memory);
        config_.stages[i].compute = stages_[i].stack.get();
    }
    config_.share = {kShareFramesMax, kShareBytesMax, 128, blocks};
}

void LocalModel::load_head(const std::string& actor, const MemoryOptions& memory) {
    while (!value_or_die(actor, head_.checkpoint->load(kLoadBytes))) {
    }
    finish_head(head_, spec_, *kernels_, memory);
    config_.head = head_.head.get();
}

}  // namespace chatloop::actors
