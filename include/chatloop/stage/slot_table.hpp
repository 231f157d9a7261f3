// The KV tables of one router's share: a fixed array [slot][block] that refuses whatever does not
// continue it (docs/protocol.md, rule 5). The router owns the blocks; this is the check that its
// bookkeeping and ours agree.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "chatloop/core/ids.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop {

class SlotTable {
public:
    // Slots and blocks are numbered from 0; a slot's table has at most `blocks_per_slot` entries.
    SlotTable(uint32_t slots, uint32_t blocks, uint32_t blocks_per_slot);

    // Whether the item continues its slot; if so the slot holds its rows from now on. A FIRST that
    // does not fit empties it.
    bool accept(Generation generation, const wire::Item& item);

    // The slot's blocks, in order of position.
    std::span<const BlockId> table(Slot slot) const;
    uint32_t rows_held(Slot slot) const { return slots_[slot].rows; }

    void clear();

private:
    struct SlotState {
        Generation generation = 0;  // of the last accepted item
        uint32_t rows = 0;
        uint32_t blocks = 0;
    };

    bool continues(Generation generation, const wire::Item& item) const;

    uint32_t blocks_;
    uint32_t blocks_per_slot_;
    std::vector<SlotState> slots_;
    std::vector<BlockId> table_;        // [slot][blocks_per_slot]
    std::vector<uint8_t> block_rows_;   // rows written per block since its last assignment
};

}  // namespace chatloop
