// Layers [first, end) of a model over a KV pool: the real StageCompute. The order of operations is
// docs/numerics.md, rule 4, and every arithmetic step is the kernel table's, so the bits of a row
// do not depend on its frame, its slice or the stage's cut.
//
// A frame is walked layer by layer, each layer in slices of at most unit_rows rows, ascending: a
// slice's K and V are stored before its attention, and those of the slices before it already are.
// Matrices see the whole slice, attention each sequence of it.
#pragma once

#include <cstdint>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "chatloop/model/activations.hpp"
#include "chatloop/model/checkpoint.hpp"
#include "chatloop/model/compute.hpp"
#include "chatloop/model/kv_pool.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

struct LayerStackOptions {
    uint32_t rows_max = kFrameRowsMax;  // rows of a frame
    uint32_t unit_rows = 32;            // rows of a unit, 1 .. rows_max
    bool preallocate = false;           // backs the scratch memory at once
};

class LayerStack final : public StageCompute {
public:
    // Everything that is passed in must outlive the stack and stay where it is; the checkpoint is
    // loaded and the pool has one layer for each of its layers.
    LayerStack(const ModelSpec& spec, const Checkpoint& checkpoint, KvPool& pool,
               const kernel::Kernels& kernels, const LayerStackOptions& options = {});

    // Bytes of scratch memory that a stack takes.
    static uint64_t scratch_bytes(const ModelSpec& spec, const LayerStackOptions& options = {});

    // Bounds the next units, up to what the options said; allowed in the middle of a frame.
    void set_unit_rows(uint32_t unit_rows);

    bool takes_ids() const override { return weights_.has_embedding; }
    uint32_t width() const override { return static_cast<uint32_t>(spec_.hidden_size); }
    // Asserts what wire and worker have checked: sizes, block ids below blocks(), ids below vocab.
    void begin(std::span<const SequenceRows> sequences, const uint8_t* payload) override;
    bool run_unit() override;
    const float* output_row(uint32_t row) const override;
    void abandon() override;

private:
    // Consecutive rows of one sequence within a unit.
    struct Run {
        int32_t row = 0;  // in the unit
        int32_t rows = 0;
        int32_t position = 0;
        const uint32_t* table = nullptr;
    };

    void load_rows(uint32_t row_first, uint32_t rows);
    void collect_runs(uint32_t row_first, uint32_t rows);
    void attention_half(const LayerWeights& layer, const kernel::KvLayer& kv, float* x,
                        int32_t rows);
    void project_qkv(const LayerWeights& layer, int32_t rows);
    void place_qk(const kernel::KvLayer& kv);
    void ffn_half(const LayerWeights& layer, float* x, int32_t rows);
    void matmul(float* y, const kernel::Matrix& w, const kernel::Activations& in);
    void add_bias(float* y, const float* bias, int32_t rows, int32_t n);
    void add_residual(float* x, float* y, int32_t rows);

    const ModelSpec& spec_;
    const StageWeights& weights_;
    KvPool& pool_;
    const kernel::Kernels& kernels_;
    const uint32_t rows_max_;
    const uint32_t unit_rows_max_;
    uint32_t unit_rows_;

    // The frame in work.
    bool running_ = false;
    std::vector<SequenceRows> sequences_;
    const uint8_t* payload_ = nullptr;
    uint32_t rows_ = 0;
    uint32_t row_next_ = 0;    // of the layer in work
    uint32_t layer_next_ = 0;  // counted from the stage's first
    std::vector<Run> runs_;    // of the unit in work

    // Scratch of one unit except x_; rows are dense.
    Scratch<float> x_;    // (rows_max, D) residual rows of the whole frame
    Scratch<float> xb_;   // (unit_rows_max, D) normed, or a half's output before it is added
    Scratch<float> q_;    // (unit_rows_max, Q)
    Scratch<float> k_;    // (unit_rows_max, KV)
    Scratch<float> v_;    // (unit_rows_max, KV)
    Scratch<float> att_;  // (unit_rows_max, Q)
    Scratch<float> hb_;   // (unit_rows_max, F)
    Scratch<float> hb2_;  // (unit_rows_max, F)
    ActivationBuffer quantized_;
};

}  // namespace chatloop
