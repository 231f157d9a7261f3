// The KV blocks and slots of one route, in the numbering of the route's smallest share, and its
// prefix cache. A block is free, held (references are counted) or cached: nobody holds it, its
// content is known, and it is taken, the longest unused first, when none is free.
//
// A Placement is what one admission of a sequence holds; the sequence and every frame in flight
// share it, and when the last of them lets go its slot returns and its blocks are held no more
// (docs/protocol.md, rule 7).
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop {

// Of the kBlockRows ids of a block and the hash of the block before it. A collision costs a miss.
using BlockHash = uint64_t (*)(const uint32_t* ids, uint64_t before);
uint64_t hash_block(const uint32_t* ids, uint64_t before);

struct Placement;

class KvBlocks {
public:
    // The chains of hashes begin with the fingerprint.
    KvBlocks(uint32_t slots, uint32_t blocks, uint64_t fingerprint, BlockHash hash = hash_block);

    uint32_t slot_count() const { return slot_count_; }
    uint32_t block_count() const { return block_count_; }
    uint64_t rows() const { return uint64_t{block_count()} * kBlockRows; }  // of the whole pool
    uint32_t free_slots() const { return slot_count_ - slots_out_; }
    uint32_t free_blocks() const { return block_count_ - blocks_held_; }  // free and cached ones
    uint32_t cached_blocks() const { return static_cast<uint32_t>(unused_.size()); }
    uint64_t hits() const { return hits_; }            // blocks that placements found
    uint64_t evictions() const { return evictions_; }  // cached blocks that were taken

    bool can_take(uint32_t count) const { return count <= free_blocks(); }
    // Whether there is a slot, and blocks of which `prefix` are the first, and `spare` more.
    bool can_place(std::span<const BlockId> prefix, uint32_t block_count,
                   uint32_t spare = 0) const;

    Slot take_slot();
    BlockId take_block();  // only when can_take
    void return_slot(Slot slot);
    void release_block(BlockId block);

    // The longest known chain of full blocks with which `ids` begin, without the last id: its row
    // is computed for its output. Good until a block is taken; it is the last to be evicted now.
    std::vector<BlockId> find_prefix(std::span<const uint32_t> ids);
    // Holds a prefix that was just found, and takes the other blocks.
    void fill(Placement& placement, std::span<const BlockId> prefix, uint32_t block_count);
    void release(const Placement& placement);
    // The first `rows_confirmed` rows of a placement are computed, for these ids: full blocks of
    // them can be found. Content that is known already stays where it is.
    void publish(Placement& placement, std::span<const uint32_t> ids, uint32_t rows_confirmed);
    // Nothing can be found any more; nor will what the placements of now hold.
    void clear_cache();

private:
    friend struct Placement;
    // The known content of a block, below the one that it continues, whose entry lives as long.
    struct Entry {
        uint64_t hash = 0;
        uint64_t serial = 0;  // never used again
        BlockId parent = kNoBlock;
        BlockId child = kNoBlock;  // the first; the others are its siblings
        BlockId previous = kNoBlock;
        BlockId next = kNoBlock;
        std::array<uint32_t, kBlockRows> ids;
    };
    struct Block {
        uint32_t references = 0;
        std::unique_ptr<Entry> entry;
        std::list<BlockId>::iterator unused;  // of a cached one
    };
    // Where a chain of entries ends.
    struct Chain {
        uint32_t length = 0;
        BlockId last = kNoBlock;
        uint64_t serial = 0;  // of the last
        uint64_t hash = 0;
    };

    bool is_cached(BlockId block) const;
    bool is_known(const Chain& chain) const;
    std::optional<BlockId> look_up(const Chain& chain, const uint32_t* ids, uint64_t hash) const;
    void extend(Chain& chain, BlockId block) const;
    void add_entry(BlockId block, const Chain& chain, const uint32_t* ids, uint64_t hash);
    void forget(BlockId block);
    void unlink(const Entry& entry);
    void hold(BlockId block);
    void touch(BlockId block);

    uint32_t slot_count_;
    uint32_t block_count_;
    uint64_t fingerprint_;
    BlockHash hash_;
    uint32_t slots_out_ = 0;
    uint32_t blocks_held_ = 0;
    // Of those that were ever taken: memory follows use, not what a worker says it has.
    Slot slots_used_ = 0;
    std::vector<Slot> returned_slots_;
    std::vector<BlockId> returned_blocks_;
    std::vector<Block> blocks_;
    std::list<BlockId> unused_;  // cached blocks, the longest unused first; children before parents
    std::unordered_map<uint64_t, BlockId> entries_;  // by hash
    uint64_t last_serial_ = 0;
    uint64_t clears_ = 0;
    uint64_t hits_ = 0;
    uint64_t evictions_ = 0;
};

struct Placement {
    // can_place must hold.
    Placement(std::shared_ptr<KvBlocks> kv, Admission admission, uint32_t block_count,
              std::span<const BlockId> prefix = {});
    ~Placement();
    Placement(const Placement&) = delete;
    Placement& operator=(const Placement&) = delete;

    bool grow(uint32_t block_count);  // by so many, or false and by none

    std::shared_ptr<KvBlocks> kv;
    Admission admission;
    Slot slot;
    std::vector<BlockId> blocks;
    uint32_t blocks_found = 0;  // the first ones, from the cache: never written

private:
    friend class KvBlocks;
    KvBlocks::Chain known_;     // the content of its first blocks, in them or in others
    uint64_t clears_ = 0;       // of the cache, before it
};

// Null when the route has no slot or not `block_count` blocks left, the prefix among them.
std::shared_ptr<Placement> place(const std::shared_ptr<KvBlocks>& kv, Admission admission,
                                 uint32_t block_count, std::span<const BlockId> prefix = {});

}  // namespace chatloop
