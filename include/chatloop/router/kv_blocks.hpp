// The KV blocks and slots of one route, in the numbering of the route's smallest share. A Placement
// is what one admission of a sequence holds; the sequence and every frame in flight share it, and
// when the last of them lets go its blocks and its slot return (docs/protocol.md, rule 7).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop {

class KvBlocks {
public:
    KvBlocks(uint32_t slots, uint32_t blocks);

    uint32_t free_blocks() const { return block_count_ - blocks_out_; }
    uint32_t free_slots() const { return slot_count_ - slots_out_; }
    uint32_t block_count() const { return block_count_; }

    Slot take_slot();
    BlockId take_block();
    void return_slot(Slot slot);
    void release_block(BlockId block);

private:
    uint32_t slot_count_;
    uint32_t block_count_;
    uint32_t slots_out_ = 0;
    uint32_t blocks_out_ = 0;
    // Of those that were ever taken: memory follows use, not what a worker says it has.
    Slot slots_used_ = 0;
    std::vector<Slot> returned_slots_;
    std::vector<BlockId> returned_blocks_;
    std::vector<uint32_t> references_;  // per block
};

struct Placement {
    Placement(std::shared_ptr<KvBlocks> kv, Admission admission, uint32_t block_count);
    ~Placement();
    Placement(const Placement&) = delete;
    Placement& operator=(const Placement&) = delete;

    std::shared_ptr<KvBlocks> kv;
    Admission admission;
    Slot slot;
    std::vector<BlockId> blocks;
};

// Null when the route has no slot or not `block_count` blocks left.
std::shared_ptr<Placement> place(const std::shared_ptr<KvBlocks>& kv, Admission admission,
                                 uint32_t block_count);

}  // namespace chatloop
