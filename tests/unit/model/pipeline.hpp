// A model directory run as a chain of stages and a head, the way that the workers do it but in one
// call: frames in, residual rows and logits out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/head.hpp"
#include "chatloop/model/layer_stack.hpp"

namespace chatloop::testing {

struct PipelineOptions {
    std::vector<int32_t> stage_ends;  // layers, ascending, the last one n_layers
    uint32_t unit_rows = 32;
    uint32_t unit_panels = 256;
    uint32_t blocks = 32;
    kernel::KvType kv_type = kernel::KvType::kF16;
    bool poison = false;  // KV pools start as NaN
};

// Rows of one sequence in a frame; the sequence is an index below 4096.
struct Chunk {
    uint32_t sequence = 0;
    uint32_t rows = 0;
};

class Pipeline {
public:
    // Fails the test on a model directory that does not load.
    Pipeline(const std::filesystem::path& model_dir, const kernel::Kernels& kernels,
             const PipelineOptions& options);

    const ModelSpec& spec() const { return spec_; }

    // Appends ids to their sequences in one frame; returns the logits of all rows (rows, vocab).
    std::vector<float> run(const std::vector<Chunk>& chunks, const std::vector<uint32_t>& ids);
    // Starts a frame on the first stage, runs `units` of it and drops it.
    void abandon_after(const std::vector<Chunk>& chunks, const std::vector<uint32_t>& ids,
                       int units);

private:
    struct Stage {
        Checkpoint checkpoint;
        KvPool pool;
        std::unique_ptr<LayerStack> stack;
    };
    struct Sequence {
        uint32_t position = 0;
        std::vector<uint32_t> table;
    };

    std::vector<SequenceRows> place(const std::vector<Chunk>& chunks);
    uint32_t take_block();
    std::vector<float> head_logits(const std::vector<uint8_t>& payload, uint32_t rows);

    ModelSpec spec_;
    PipelineOptions options_;
    std::vector<std::unique_ptr<Stage>> stages_;
    std::vector<Checkpoint> head_weights_;
    std::unique_ptr<Head> head_;
    std::vector<Sequence> sequences_;
    uint32_t blocks_taken_ = 0;
};

}  // namespace chatloop::testing
