// The Sampler answers every frame with exactly one RESULT: final norm and head for the rows that
// want output (behind HeadCompute), then the token or the log-probability that each asks for. It
// keeps nothing between frames.
#pragma once

#include <cstdint>
#include <vector>

#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/compute.hpp"
#include "chatloop/sampler/sampling.hpp"
#include "chatloop/worker/executor.hpp"

namespace chatloop {

class Sampler final : public FrameExecutor {
public:
    explicit Sampler(const kernel::Kernels& kernels);
    // The head, once it is loaded; before the first frame.
    void set_compute(HeadCompute& head) { head_ = &head; }

    void begin(size_t share, FrameInHand& in_hand) override;
    bool run_unit() override;
    void finish(const wire::FrameHeader& header, std::span<const wire::HopTiming> timings,
                wire::Bytes& bytes) override;
    void abandon() override;
    void forget(size_t share) override;

private:
    // One row of the payload that wants output.
    struct Wanted {
        size_t item = 0;
        uint32_t row = 0;       // within the item
        size_t output = 0;      // index in the item's outputs, and in sample.targets
        uint32_t payload_row = 0;
    };

    void answer_row(const Wanted& wanted, std::span<const float> logits);
    wire::ItemError refusal(const wire::Item& item, size_t index, bool right_kind);
    void keep_rows();
    void begin_batch();

    HeadCompute* head_ = nullptr;
    const kernel::Kernels& kernels_;
    SamplingScratch scratch_;
    std::vector<float> adjusted_logits_;
    std::vector<TokenLogprob> top_;

    FrameInHand* in_hand_ = nullptr;
    std::vector<wire::Sample> samples_;        // per item; meaningful where it wants output
    wire::ResultFrame result_;                 // its items as those of the frame
    std::vector<Wanted> wanted_;               // rows to answer, in payload order
    const uint8_t* rows_ = nullptr;            // their residual rows, dense: the payload, or
    std::vector<uint8_t> kept_rows_;           // without those that are not to be answered
    size_t batch_first_ = 0;                   // of wanted_, in the head now
    size_t batch_rows_ = 0;
    size_t answered_ = 0;                      // rows of the batch that are answered
    bool head_done_ = false;
};

}  // namespace chatloop
