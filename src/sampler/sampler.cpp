#include "chatloop/sampler/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "chatloop/core/assert.hpp"
#include "chatloop/sampler/adjust.hpp"

namespace chatloop {

Sampler::Sampler(const kernel::Kernels& kernels) : kernels_(kernels) {}

// Collects the rows to answer. What cannot be answered (a refused item, a sample element that is
// malformed, a frame of another shape) gets its item error here.
void Sampler::begin(size_t share, FrameInHand& in_hand) {
    (void)share;
    CL_ASSERT(head_ != nullptr);  // no route is installed before READY
    CL_ASSERT(in_hand_ == nullptr);
    in_hand_ = &in_hand;
    const wire::DataFrame& frame = in_hand.frame;
    samples_.resize(frame.items.size());
    result_.items.resize(frame.items.size());
    wanted_.clear();
    uint32_t rows = 0;
    for (const wire::Item& item : frame.items) rows += static_cast<uint32_t>(item.outputs.size());
    const bool right_kind = frame.dtype == wire::DType::kF32 && frame.rows == rows &&
                            (rows == 0 || frame.width == head_->width());
    uint32_t payload_row = 0;
    for (size_t i = 0; i < frame.items.size(); ++i) {
        const wire::Item& item = frame.items[i];
        const uint32_t first = payload_row;
        payload_row += static_cast<uint32_t>(item.outputs.size());
        wire::ResultItem& result = result_.items[i];
        result.slot = item.slot;
        result.admission = item.admission;
        result.error = refusal(item, i, right_kind);
        if (result.error != wire::ItemError::kNone || item.outputs.empty()) {
            result.outputs.clear();
            continue;
        }
        result.outputs.resize(item.outputs.size());
        for (size_t j = 0; j < item.outputs.size(); ++j)
            wanted_.push_back({i, item.outputs[j], j, static_cast<uint32_t>(first + j)});
    }
    keep_rows();
    batch_first_ = 0;
    begin_batch();
}

// Why an item is not answered; reads its sample.
wire::ItemError Sampler::refusal(const wire::Item& item, size_t index, bool right_kind) {
    if ((item.flags & wire::kItemRefused) != 0) return wire::ItemError::kRefused;
    if (item.outputs.empty()) return wire::ItemError::kNone;
    const bool readable =
        wire::decode_sample(item.sample, item.outputs.size(), samples_[index]).ok();
    return readable && right_kind ? wire::ItemError::kNone : wire::ItemError::kMalformed;
}

// The payload itself, unless it has rows that are not answered.
void Sampler::keep_rows() {
    const wire::DataFrame& frame = in_hand_->frame;
    rows_ = frame.payload.data();
    if (wanted_.size() == frame.rows) return;
    const size_t row_bytes = size_t{frame.width} * sizeof(float);
    kept_rows_.clear();
    for (const Wanted& wanted : wanted_) {
        const uint8_t* row = frame.payload.data() + wanted.payload_row * row_bytes;
        kept_rows_.insert(kept_rows_.end(), row, row + row_bytes);
    }
    rows_ = kept_rows_.data();
}

void Sampler::begin_batch() {
    batch_rows_ = std::min<size_t>(wanted_.size() - batch_first_, head_->rows_max());
    answered_ = 0;
    head_done_ = false;
    if (batch_rows_ == 0) return;
    const size_t row_bytes = size_t{head_->width()} * sizeof(float);
    head_->begin(rows_ + batch_first_ * row_bytes, static_cast<uint32_t>(batch_rows_));
}

// A unit is one slice of the head for all rows of the batch, or the answer of one row.
bool Sampler::run_unit() {
    CL_ASSERT(in_hand_ != nullptr);
    if (batch_rows_ == 0) return true;
    if (!head_done_) {
        head_done_ = head_->run_unit();
        return false;
    }
    answer_row(wanted_[batch_first_ + answered_],
               head_->logits(static_cast<uint32_t>(answered_)));
    if (++answered_ < batch_rows_) return false;
    batch_first_ += batch_rows_;
    begin_batch();
    return batch_rows_ == 0;
}

void Sampler::answer_row(const Wanted& wanted, std::span<const float> logits) {
    wire::ResultItem& result = result_.items[wanted.item];
    const wire::Sample& sample = samples_[wanted.item];
    if (result.error != wire::ItemError::kNone) return;
    const auto refuse = [&](wire::ItemError error) {  // an item is answered in full or not at all
        result.error = error;
        result.outputs.clear();
    };
    if (!kernels_.all_finite(logits.data(), static_cast<int64_t>(logits.size())))
        return refuse(wire::ItemError::kNonFinite);
    wire::Output& output = result.outputs[wanted.output];  // whose memory is an older one's
    output.row = wanted.row;
    output.kind = 1;
    output.logprob = 0.0f;
    output.top.clear();
    const bool is_target = sample.targets && (*sample.targets)[wanted.output].has_value();
    if (is_target) {
        output.kind = 2;
        output.token = *(*sample.targets)[wanted.output];
        if (output.token >= logits.size()) return refuse(wire::ItemError::kMalformed);
    } else {
        std::span<const float> candidates = logits;
        if (adjusts(sample)) {  // log-probabilities stay those of the raw logits
            adjusted_logits_.assign(logits.begin(), logits.end());
            adjust_logits(sample, adjusted_logits_);
            candidates = adjusted_logits_;
            const bool any_left = std::any_of(candidates.begin(), candidates.end(),
                                              [](float z) { return std::isfinite(z); });
            if (!any_left) return refuse(wire::ItemError::kMalformed);
        }
        SamplingParams params;
        params.temperature = sample.temperature;
        params.top_k = sample.top_k;
        params.top_p = sample.top_p;
        params.min_p = sample.min_p;
        params.typical_p = sample.typical_p;
        params.seed = sample.seed;
        params.choice = sample.choice;
        output.token = chatloop::sample(kernels_, candidates, params, sample.index, scratch_);
    }
    if (sample.logprobs > 0) {
        const RowStats stats = row_stats(kernels_, logits);
        output.logprob = kernel::log_prob(logits[output.token], stats.zmax, stats.log_sum);
        top_logprobs(logits, stats, sample.logprobs - 1u, top_);
        for (const TokenLogprob& entry : top_) output.top.push_back({entry.id, entry.logprob});
    }
}

void Sampler::finish(const wire::FrameHeader& header, std::span<const wire::HopTiming> timings,
                     wire::Bytes& bytes) {
    CL_ASSERT(in_hand_ != nullptr);
    in_hand_ = nullptr;
    result_.header = header;
    result_.timings.assign(timings.begin(), timings.end());
    wire::encode_result(result_, bytes);
}

void Sampler::abandon() {
    CL_ASSERT(in_hand_ != nullptr);
    if (batch_rows_ != 0 && !head_done_) head_->abandon();
    in_hand_ = nullptr;
}

void Sampler::forget(size_t share) { (void)share; }

}  // namespace chatloop
