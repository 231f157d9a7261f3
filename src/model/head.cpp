#include "chatloop/model/head.hpp"

#include <algorithm>
#include <cstring>

namespace chatloop {

using kernel::kPanelRows;

Head::Head(const ModelSpec& spec, const Checkpoint& checkpoint, const kernel::Kernels& kernels,
           const HeadOptions& options)
    : spec_(spec),
      weights_(checkpoint.head()),
      kernels_(kernels),
      rows_max_(options.rows_max),
      x_(size_t{options.rows_max} * width(), options.preallocate),
      logits_(size_t{options.rows_max} * vocab(), options.preallocate),
      quantized_(options.rows_max, spec.hidden_size, options.preallocate) {
    CL_ASSERT(checkpoint.loaded());
    CL_ASSERT(rows_max_ > 0);
    set_unit_panels(options.unit_panels);
}

uint64_t Head::scratch_bytes(const ModelSpec& spec, const HeadOptions& options) {
    const uint64_t floats = uint64_t{options.rows_max} *
                            (static_cast<uint64_t>(spec.hidden_size) + spec.vocab_size);
    return floats * sizeof(float) + ActivationBuffer::bytes(options.rows_max, spec.hidden_size);
}

void Head::set_unit_panels(uint32_t unit_panels) {
    CL_ASSERT(unit_panels > 0);
    const auto panels = static_cast<uint32_t>(weights_.head.panels());
    unit_panels_ = static_cast<int32_t>(std::min(unit_panels, panels));
}

void Head::begin(const uint8_t* payload, uint32_t rows) {
    CL_ASSERT(!running_);
    CL_ASSERT(rows > 0 && rows <= rows_max_);
    std::memcpy(x_.get(), payload, size_t{rows} * width() * sizeof(float));
    const auto count = static_cast<int32_t>(rows);
    kernels_.rms_norm(x_.get(), x_.get(), weights_.norm, count, spec_.hidden_size, spec_.norm_eps);
    in_ = quantized_.prepare(kernels_, x_.get(), count, spec_.hidden_size, {&weights_.head});
    rows_ = rows;
    panel_next_ = 0;
    running_ = true;
}

bool Head::run_unit() {
    CL_ASSERT(running_);
    const int32_t panel_end = std::min(panel_next_ + unit_panels_, weights_.head.panels());
    kernels_.matmul(logits_.get(), spec_.vocab_size, weights_.head, in_, panel_next_, panel_end);
    finish_logits(panel_next_, panel_end);
    panel_next_ = panel_end;
    running_ = panel_next_ < weights_.head.panels();
    return !running_;
}

void Head::finish_logits(int32_t panel_first, int32_t panel_end) {
    const int32_t first = panel_first * kPanelRows;
    const int32_t count = std::min(panel_end * kPanelRows, spec_.vocab_size) - first;
    for (uint32_t r = 0; r < rows_; ++r) {
        float* z = logits_.get() + size_t{r} * vocab() + first;
        if (spec_.logit_scale != 1.0f) kernels_.scale(z, spec_.logit_scale, count);
        if (spec_.logit_softcap > 0.0f) kernels_.softcap(z, spec_.logit_softcap, count);
    }
}

std::span<const float> Head::logits(uint32_t row) const {
    CL_ASSERT(!running_ && row < rows_);
    return {logits_.get() + size_t{row} * vocab(), vocab()};
}

void Head::abandon() {
    running_ = false;
    rows_ = 0;
}

}  // namespace chatloop
