// The KV blocks and slots of one route, in the numbering of the route's smallest share, and the
// prefix cache over them. A Placement is what one admission of a sequence holds; the sequence and
// every frame in flight share it, and when the last of them lets go its slot and its blocks return
// (docs/protocol.md, rule 7).
//
// A block is free, held (by placements) or cached: nobody holds it, its 64 ids are known, and it is
// taken when no free one is left, the longest unused first (docs/scheduling.md, "KV blocks").
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop {

// Of the 64 ids of a block, chained: `before` is that of the block before it.
using BlockHash = uint64_t (*)(std::span<const uint32_t> ids, uint64_t before);
uint64_t xxh3_block(std::span<const uint32_t> ids, uint64_t before);

// Where a chain of shareable blocks ends.
struct PrefixEnd {
    uint64_t hash = 0;
    uint64_t serial = 0;  // of the last block's entry; 0 before the first
};

struct Prefix {
    std::vector<BlockId> blocks;
    PrefixEnd end;

    uint32_t size() const { return static_cast<uint32_t>(blocks.size()); }
};

class KvBlocks {
public:
    KvBlocks(uint32_t slots, uint32_t blocks, uint64_t fingerprint = 0,
             BlockHash hash = xxh3_block);

    uint32_t slot_count() const { return slot_count_; }
    uint32_t block_count() const { return block_count_; }
    uint32_t free_slots() const { return slot_count_ - slots_out_; }
    uint32_t free_blocks() const { return block_count_ - blocks_held_; }  // cached ones too
    uint32_t cached_blocks() const { return cached_; }
    uint64_t evictions() const { return evictions_; }

    // The longest chain of known blocks that `ids` begins with. One id at least is left out: its
    // row is computed for its output.
    Prefix find_prefix(std::span<const uint32_t> ids) const;
    // Whether there is a slot, and blocks: `block_count` in all, the prefix among them, and
    // `spare` more.
    bool can_place(const Prefix& prefix, uint32_t block_count, uint32_t spare = 0) const;
    // Nothing is known any more: a stage was replaced.
    void forget_contents();

private:
    friend struct Placement;
    struct Entry {
        uint64_t hash = 0;
        uint64_t serial = 0;  // never used again
        uint64_t before = 0;  // serial of the block before it
        std::array<uint32_t, kBlockRows> ids{};
    };
    struct Block {
        uint32_t holders = 0;
        BlockId older = kNoBlock, newer = kNoBlock;  // of the cached ones
        std::unique_ptr<Entry> entry;          // when its content is known
    };

    Slot take_slot();
    void return_slot(Slot slot);
    BlockId take_block();
    void hold(BlockId block);
    void release(BlockId block);
    const Entry* find(uint64_t hash, uint64_t before, std::span<const uint32_t> ids,
                      BlockId* block) const;
    // The block, which has just been computed, continues the chain; the new end.
    PrefixEnd publish(BlockId block, const PrefixEnd& end, std::span<const uint32_t> ids);
    void forget(BlockId block);
    void link_newest(BlockId block);
    void unlink(BlockId block);

    uint32_t slot_count_;
    uint32_t block_count_;
    uint64_t fingerprint_;
    BlockHash hash_;
    uint32_t slots_out_ = 0;
    uint32_t blocks_held_ = 0;
    uint32_t cached_ = 0;
    uint64_t evictions_ = 0;
    uint64_t last_serial_ = 0;
    // Of those that were ever taken: memory follows use, not what a worker says it has.
    Slot slots_used_ = 0;
    std::vector<Slot> returned_slots_;
    std::vector<BlockId> returned_blocks_;
    std::vector<Block> blocks_;
    BlockId oldest_ = kNoBlock, newest_ = kNoBlock;
    std::unordered_map<uint64_t, BlockId> by_hash_;
};

struct Placement {
    Placement(std::shared_ptr<KvBlocks> kv, Admission admission, uint32_t block_count,
              const Prefix& prefix);
    ~Placement();
    Placement(const Placement&) = delete;
    Placement& operator=(const Placement&) = delete;

    // `count` more blocks, or none and false.
    bool grow(uint32_t count);
    // The first `rows` rows, of `ids`, were computed without a fault: full blocks become shareable.
    void publish(std::span<const uint32_t> ids, uint32_t rows);

    std::shared_ptr<KvBlocks> kv;
    Admission admission;
    Slot slot;
    std::vector<BlockId> blocks;

private:
    uint32_t published_ = 0;  // blocks
    PrefixEnd end_;
};

// Null when the route has no slot or not enough blocks.
std::shared_ptr<Placement> place(const std::shared_ptr<KvBlocks>& kv, Admission admission,
                                 uint32_t block_count, const Prefix& prefix = {});

}  // namespace chatloop
