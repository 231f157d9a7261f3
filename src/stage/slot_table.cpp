#include "chatloop/stage/slot_table.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/rules.hpp"

namespace chatloop {

SlotTable::SlotTable(uint32_t slots, uint32_t blocks, uint32_t blocks_per_slot)
    : blocks_(blocks), blocks_per_slot_(blocks_per_slot) {
    CL_ASSERT(slots > 0 && blocks > 0 && blocks_per_slot > 0);
    slots_.resize(slots);
    table_.assign(static_cast<size_t>(slots) * blocks_per_slot, kNoBlock);
    block_rows_.assign(blocks, 0);
}

bool SlotTable::continues(Generation generation, const wire::Item& item) const {
    if (item.slot >= slots_.size() || item.rows == 0) return false;
    for (const BlockId block : item.blocks)
        if (block >= blocks_) return false;
    const uint64_t table_end = uint64_t{item.table_index} + item.blocks.size();
    const uint64_t rows_end = uint64_t{item.position} + item.rows;
    if (table_end > blocks_per_slot_ || table_end < blocks_for(rows_end)) return false;

    const SlotState& held = slots_[item.slot];
    if ((item.flags & wire::kItemFirst) != 0) {
        if (item.table_index != 0 || item.position % kBlockRows != 0) return false;
        // Blocks in front of the first row come from the prefix cache: each must be full here.
        for (uint32_t j = 0; j < item.position / kBlockRows; ++j)
            if (block_rows_[item.blocks[j]] != kBlockRows && holds(Rule::kPrefixRows))
                return false;
        return true;
    }
    if (!holds(Rule::kItemRule)) return true;
    if (held.generation == 0) return false;
    if (held.generation == generation)
        return item.position == held.rows && item.table_index == held.blocks;
    // The first item in a generation may cut, but never through a block that holds kept rows.
    return item.position <= held.rows && item.table_index <= held.blocks &&
           item.table_index >= blocks_for(item.position);
}

bool SlotTable::accept(Generation generation, const wire::Item& item) {
    if (!continues(generation, item)) {
        // What the slot held was another sequence's: what follows a FIRST that was refused must not
        // continue it.
        const bool is_first = (item.flags & wire::kItemFirst) != 0;
        if (is_first && item.slot < slots_.size()) slots_[item.slot] = SlotState{};
        return false;
    }
    SlotState& held = slots_[item.slot];
    BlockId* table = table_.data() + static_cast<size_t>(item.slot) * blocks_per_slot_;
    std::copy(item.blocks.begin(), item.blocks.end(), table + item.table_index);
    held.generation = generation;
    held.rows = item.position + item.rows;
    held.blocks = item.table_index + static_cast<uint32_t>(item.blocks.size());
    for (uint32_t j = item.position / kBlockRows; j < held.blocks; ++j) {
        CL_ASSERT(table[j] < blocks_);
        const uint64_t first = uint64_t{j} * kBlockRows;
        const uint64_t rows = held.rows > first ? held.rows - first : 0;
        block_rows_[table[j]] = static_cast<uint8_t>(std::min<uint64_t>(rows, kBlockRows));
    }
    return true;
}

std::span<const BlockId> SlotTable::table(Slot slot) const {
    CL_ASSERT(slot < slots_.size());
    return {table_.data() + static_cast<size_t>(slot) * blocks_per_slot_, slots_[slot].blocks};
}

void SlotTable::clear() {
    std::fill(slots_.begin(), slots_.end(), SlotState{});
    std::fill(block_rows_.begin(), block_rows_.end(), uint8_t{0});
}

}  // namespace chatloop
