#include "chatloop/stage/stage_worker.hpp"

#include <cstring>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/core/rules.hpp"

namespace chatloop {

namespace {

constexpr uint32_t kRefusedRow = UINT32_MAX;

}  // namespace

StageWorker::StageWorker(const StageConfig& config) : config_(config) {
    for (uint32_t i = 0; i < config.shares; ++i)
        tables_.emplace_back(config.share.slots, config.share.blocks, config.blocks_per_slot);
    pool_blocks_.reserve(kFrameItemsMax * 16);
}

bool StageWorker::ids_valid(const wire::DataFrame& frame, uint32_t row_first, uint32_t rows) const {
    for (uint32_t r = row_first; r < row_first + rows; ++r) {
        uint32_t id = 0;
        std::memcpy(&id, frame.payload.data() + size_t{r} * sizeof id, sizeof id);
        if (id >= config_.vocab) return false;
    }
    return true;
}

// Decides item by item, and hands what was accepted to the compute. A frame of the wrong kind (ids
// for a middle stage, another width) has all its items refused: the router hears of each.
void StageWorker::begin(size_t share, FrameInHand& in_hand) {
    CL_ASSERT(compute_ != nullptr);  // no route is installed before READY
    CL_ASSERT(in_hand_ == nullptr);
    CL_ASSERT(share < tables_.size());
    in_hand_ = &in_hand;
    wire::DataFrame& frame = in_hand.frame;
    SlotTable& table = tables_[share];
    const bool ids = compute_->takes_ids();
    uint32_t rows = 0;
    for (const wire::Item& item : frame.items) rows += item.rows;
    const bool right_kind = frame.rows == rows &&
                            frame.dtype == (ids ? wire::DType::kIds : wire::DType::kF32) &&
                            frame.width == (ids ? 1 : compute_->width());

    sequences_.clear();
    pool_blocks_.clear();
    compute_row_.clear();
    uint32_t row = 0;
    uint32_t kept_rows = 0;
    for (wire::Item& item : frame.items) {
        const bool accepted = right_kind && (item.flags & wire::kItemRefused) == 0 &&
                              (!ids || ids_valid(frame, row, item.rows)) &&
                              table.accept(in_hand.frame.header.generation, item);
        row += item.rows;
        if (!accepted) {
            if ((item.flags & wire::kItemRefused) == 0) ++items_refused_;
            item.flags = static_cast<uint8_t>(item.flags | wire::kItemRefused);
            compute_row_.push_back(kRefusedRow);
            continue;
        }
        compute_row_.push_back(kept_rows);
        kept_rows += item.rows;
        const auto blocks = table.table(item.slot);
        const size_t first = holds(Rule::kShares) ? share * config_.share.blocks : 0;
        for (const BlockId block : blocks)
            pool_blocks_.push_back(static_cast<BlockId>(first) + block);
        sequences_.push_back({item.slot, item.position, item.rows, {}});
    }
    // The spans are set once pool_blocks_ has stopped growing.
    size_t at = 0;
    for (SequenceRows& sequence : sequences_) {
        const size_t count = table.table(sequence.slot).size();
        sequence.table = {pool_blocks_.data() + at, count};
        at += count;
    }
    if (sequences_.empty()) return;
    const bool all_kept = sequences_.size() == frame.items.size();
    if (!all_kept) gather_rows();
    compute_->begin(sequences_, all_kept ? frame.payload.data() : payload_.data());
}

void StageWorker::gather_rows() {
    const wire::DataFrame& frame = in_hand_->frame;
    const size_t row_bytes = size_t{frame.width} * 4;
    payload_.clear();
    size_t row = 0;
    for (size_t i = 0; i < frame.items.size(); ++i) {
        const uint8_t* rows = frame.payload.data() + row * row_bytes;
        row += frame.items[i].rows;
        if (compute_row_[i] == kRefusedRow) continue;
        payload_.insert(payload_.end(), rows, rows + frame.items[i].rows * row_bytes);
    }
}

bool StageWorker::run_unit() {
    CL_ASSERT(in_hand_ != nullptr);
    return sequences_.empty() || compute_->run_unit();
}

uint8_t* StageWorker::write_row(uint8_t* out, size_t item, uint32_t row_in_item) {
    const size_t row_bytes = size_t{compute_->width()} * sizeof(float);
    if (compute_row_[item] == kRefusedRow) {
        std::memset(out, 0, row_bytes);
    } else {
        std::memcpy(out, compute_->output_row(compute_row_[item] + row_in_item), row_bytes);
    }
    return out + row_bytes;
}

void StageWorker::finish(const wire::FrameHeader& header,
                         std::span<const wire::HopTiming> timings, wire::Bytes& bytes) {
    CL_ASSERT(in_hand_ != nullptr);
    const std::vector<wire::Item>& items = in_hand_->frame.items;
    const bool outputs_only = in_hand_->hop.outputs_only;
    uint32_t rows = 0;
    for (const wire::Item& item : items)
        rows += outputs_only ? static_cast<uint32_t>(item.outputs.size()) : item.rows;

    size_t payload_at = 0;
    wire::encode_frame(header, timings, items, wire::DType::kF32, rows, compute_->width(), bytes,
                       &payload_at);
    uint8_t* out = bytes.data() + payload_at;
    for (size_t i = 0; i < items.size(); ++i) {
        if (outputs_only) {
            for (const uint32_t row : items[i].outputs) out = write_row(out, i, row);
        } else {
            for (uint32_t row = 0; row < items[i].rows; ++row) out = write_row(out, i, row);
        }
    }
    wire::seal_frame(bytes);
    in_hand_ = nullptr;
}

void StageWorker::abandon() {
    CL_ASSERT(in_hand_ != nullptr);
    if (!sequences_.empty()) compute_->abandon();
    in_hand_ = nullptr;
}

void StageWorker::forget(size_t share) { tables_[share].clear(); }

}  // namespace chatloop
