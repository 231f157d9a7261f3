// A StageWorker runs its layers for the frames that the Worker hands it, one unit at a time: token
// ids or residual rows in, residual rows out. It keeps the slot tables; the KV rows live behind
// StageCompute.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "chatloop/model/compute.hpp"
#include "chatloop/stage/slot_table.hpp"
#include "chatloop/worker/executor.hpp"

namespace chatloop {

struct StageConfig {
    wire::Share share;             // of each router
    uint32_t shares = 1;           // routers served; share i owns blocks [i, i + 1) * blocks
    uint32_t vocab = 0;            // ids at or above it are refused (first stage)
    uint32_t blocks_per_slot = 0;  // the context in blocks
};

class StageWorker final : public FrameExecutor {
public:
    explicit StageWorker(const StageConfig& config);
    // The layers, once they are loaded; before the first frame.
    void set_compute(StageCompute& compute) { compute_ = &compute; }

    void begin(size_t share, FrameInHand& in_hand) override;
    bool run_unit() override;
    void finish(const wire::FrameHeader& header, std::span<const wire::HopTiming> timings,
                wire::Bytes& bytes) override;
    void abandon() override;
    void forget(size_t share) override;

    uint64_t items_refused() const { return items_refused_; }

private:
    bool ids_valid(const wire::DataFrame& frame, uint32_t row_first, uint32_t rows) const;
    void gather_rows();
    uint8_t* write_row(uint8_t* out, size_t item, uint32_t row_in_item);

    StageConfig config_;
    StageCompute* compute_ = nullptr;
    std::vector<SlotTable> tables_;            // one per share

    FrameInHand* in_hand_ = nullptr;           // the frame being computed
    std::vector<SequenceRows> sequences_;      // its items that were not refused
    std::vector<BlockId> pool_blocks_;         // their tables in pool numbering, one after another
    std::vector<uint32_t> compute_row_;        // per item: first row at the compute, or kRefusedRow
    std::vector<uint8_t> payload_;             // the kept rows, only when an item was refused
    uint64_t items_refused_ = 0;
};

}  // namespace chatloop
