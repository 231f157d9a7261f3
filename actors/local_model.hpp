// The whole of ChatLoop in one process: a model's parts, loaded, behind an in-process cluster.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "chatloop/host/local_cluster.hpp"
#include "chatloop/text/text.hpp"
#include "common.hpp"

namespace chatloop::actors {

struct LocalOptions {
    std::string model;
    int32_t stages = 1;
    bool hosted_sampler = false;
    std::string kernels = "auto";
    MemoryOptions memory;
    std::string weights = "mmap";
    std::string kv_cache_dtype = "f16";
    bool poison_kv = false;
    uint32_t prefill_rows = 256;
    bool prefix_cache = true;
    uint32_t max_batch_size = 32;
    uint32_t max_sequences = 0;  // at once; 0: four times max_batch_size
    uint32_t max_queue_size = 512;
};

class LocalModel {
public:
    // Loads all of it, or ends the process with one line.
    LocalModel(const std::string& actor, const LocalOptions& options, Router::Log log);

    LocalCluster& cluster() { return *cluster_; }
    const TextEngine& text() const { return *text_; }
    const RouterConfig& router() const { return config_.router; }
    const std::string& weights() const { return weights_text_; }  // where they are, for people
    uint64_t bytes() const { return bytes_; }  // weights and KV cache

private:
    void load_stages(const std::string& actor, const LocalOptions& options);
    void load_head(const std::string& actor, const MemoryOptions& memory);

    ModelSpec spec_;
    const kernel::Kernels* kernels_ = nullptr;
    std::unique_ptr<TextEngine> text_;
    std::vector<StageModel> stages_;
    HeadModel head_;
    std::string weights_text_;
    uint64_t bytes_ = 0;
    LocalClusterConfig config_;
    std::unique_ptr<LocalCluster> cluster_;
};

}  // namespace chatloop::actors
