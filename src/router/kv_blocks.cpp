#include "chatloop/router/kv_blocks.hpp"

#include "chatloop/core/assert.hpp"

namespace chatloop {

KvBlocks::KvBlocks(uint32_t slots, uint32_t blocks) : slot_count_(slots), block_count_(blocks) {
    CL_ASSERT(slots > 0 && blocks > 0);
}

// What was returned last first, else the lowest number that was never taken.
Slot KvBlocks::take_slot() {
    CL_ASSERT(free_slots() > 0);
    ++slots_out_;
    if (returned_slots_.empty()) return slots_used_++;
    const Slot slot = returned_slots_.back();
    returned_slots_.pop_back();
    return slot;
}

BlockId KvBlocks::take_block() {
    CL_ASSERT(free_blocks() > 0);
    ++blocks_out_;
    if (returned_blocks_.empty()) {
        references_.push_back(1);
        return static_cast<BlockId>(references_.size() - 1);
    }
    const BlockId block = returned_blocks_.back();
    returned_blocks_.pop_back();
    CL_ASSERT(references_[block] == 0);
    references_[block] = 1;
    return block;
}

void KvBlocks::return_slot(Slot slot) {
    --slots_out_;
    returned_slots_.push_back(slot);
}

void KvBlocks::release_block(BlockId block) {
    CL_ASSERT(references_[block] > 0);
    if (--references_[block] > 0) return;
    --blocks_out_;
    returned_blocks_.push_back(block);
}

Placement::Placement(std::shared_ptr<KvBlocks> pool, Admission admitted, uint32_t block_count)
    : kv(std::move(pool)), admission(admitted), slot(kv->take_slot()) {
    for (uint32_t i = 0; i < block_count; ++i) blocks.push_back(kv->take_block());
}

Placement::~Placement() {
    for (const BlockId block : blocks) kv->release_block(block);
    kv->return_slot(slot);
}

std::shared_ptr<Placement> place(const std::shared_ptr<KvBlocks>& kv, Admission admission,
                                 uint32_t block_count) {
    if (kv->free_slots() == 0 || kv->free_blocks() < block_count) return nullptr;
    return std::make_shared<Placement>(kv, admission, block_count);
}

}  // namespace chatloop
