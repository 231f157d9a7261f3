// What a stage worker and a sampler need of a model, and no more. LayerStack and Head (model/) are
// the real thing; the simulator puts a hash chain behind the same interface.
//
// A frame is computed in bounded units: begin, run_unit until it returns true, read the output.
// abandon ends a half-done frame at once; what it wrote to its own KV positions is harmless.
#pragma once

#include <cstdint>
#include <span>

namespace chatloop {

// One sequence's rows in a frame. `table[j]` is the KV block of positions [64j, 64j + 64), complete
// up to the last row.
struct SequenceRows {
    uint32_t slot = 0;
    uint32_t position = 0;  // of the first row
    uint32_t rows = 0;
    std::span<const uint32_t> table;
};

class StageCompute {
public:
    virtual ~StageCompute() = default;

    virtual bool takes_ids() const = 0;   // first stage: the payload is u32 token ids
    virtual uint32_t width() const = 0;   // floats per residual row

    // `payload`: the frame's rows in item order, u32 ids or f32 x width, little-endian and
    // unaligned. Payload and tables stay valid until the frame is finished or abandoned.
    virtual void begin(std::span<const SequenceRows> sequences, const uint8_t* payload) = 0;
    // Runs one unit (one layer of a slice of rows). True when the frame is finished.
    virtual bool run_unit() = 0;
    // Row `row` of the finished frame: width() floats.
    virtual const float* output_row(uint32_t row) const = 0;
    virtual void abandon() = 0;
};

class HeadCompute {
public:
    virtual ~HeadCompute() = default;

    virtual uint32_t width() const = 0;
    virtual uint32_t vocab() const = 0;
    virtual uint32_t rows_max() const = 0;  // rows per begin

    // `payload`: rows x width f32, little-endian and unaligned; valid until finished.
    virtual void begin(const uint8_t* payload, uint32_t rows) = 0;
    // Runs one unit (a slice of the vocabulary for all rows). True when finished.
    virtual bool run_unit() = 0;
    // Raw logits of row `row` after logit_scale and softcap: vocab() floats.
    virtual std::span<const float> logits(uint32_t row) const = 0;
    virtual void abandon() = 0;
};

}  // namespace chatloop
