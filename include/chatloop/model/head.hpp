// The final norm and the LM head: the real HeadCompute. A unit is a slice of the vocabulary for all
// rows; every logit is one lane of one matrix row, so slicing changes no bit.
#pragma once

#include <cstdint>

#include "chatloop/model/activations.hpp"
#include "chatloop/model/checkpoint.hpp"
#include "chatloop/model/compute.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

struct HeadOptions {
    uint32_t rows_max = 64;
    uint32_t unit_panels = 256;  // 16 logits each
    bool preallocate = false;    // backs the scratch memory at once
};

class Head final : public HeadCompute {
public:
    // Everything that is passed in must outlive the head and stay where it is; the checkpoint is
    // loaded.
    Head(const ModelSpec& spec, const Checkpoint& checkpoint, const kernel::Kernels& kernels,
         const HeadOptions& options = {});

    // Bytes of scratch memory that a head takes.
    static uint64_t scratch_bytes(const ModelSpec& spec, const HeadOptions& options = {});

    // Bounds the next units; allowed in the middle of a frame.
    void set_unit_panels(uint32_t unit_panels);

    uint32_t width() const override { return static_cast<uint32_t>(spec_.hidden_size); }
    uint32_t vocab() const override { return static_cast<uint32_t>(spec_.vocab_size); }
    uint32_t rows_max() const override { return rows_max_; }
    void begin(const uint8_t* payload, uint32_t rows) override;
    bool run_unit() override;
    std::span<const float> logits(uint32_t row) const override;
    void abandon() override;

private:
    void finish_logits(int32_t panel_first, int32_t panel_end);

    const ModelSpec& spec_;
    const HeadWeights& weights_;
    const kernel::Kernels& kernels_;
    const uint32_t rows_max_;
    int32_t unit_panels_;

    bool running_ = false;
    uint32_t rows_ = 0;
    int32_t panel_next_ = 0;
    kernel::Activations in_;            // the normed rows of the frame in work

    Scratch<float> x_;       // (rows_max, D)
    Scratch<float> logits_;  // (rows_max, vocab)
    ActivationBuffer quantized_;
};

}  // namespace chatloop
