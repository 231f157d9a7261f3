#include "chatloop/router/kv_blocks.hpp"

#include "chatloop/core/assert.hpp"

namespace chatloop {

// Free lists are stacks that hand out low numbers first, so that a run is easy to follow.
KvBlocks::KvBlocks(uint32_t slots, uint32_t blocks) : references_(blocks, 0) {
    CL_ASSERT(slots > 0 && blocks > 0);
    for (uint32_t slot = slots; slot > 0; --slot) free_slots_.push_back(slot - 1);
    for (uint32_t block = blocks; block > 0; --block) free_blocks_.push_back(block - 1);
}

Slot KvBlocks::take_slot() {
    CL_ASSERT(!free_slots_.empty());
    const Slot slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
}

BlockId KvBlocks::take_block() {
    CL_ASSERT(!free_blocks_.empty());
    const BlockId block = free_blocks_.back();
    free_blocks_.pop_back();
    CL_ASSERT(references_[block] == 0);
    references_[block] = 1;
    return block;
}

void KvBlocks::return_slot(Slot slot) { free_slots_.push_back(slot); }

void KvBlocks::release_block(BlockId block) {
    CL_ASSERT(references_[block] > 0);
    if (--references_[block] == 0) free_blocks_.push_back(block);
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
