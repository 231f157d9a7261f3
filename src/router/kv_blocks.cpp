#include "chatloop/router/kv_blocks.hpp"

#include <xxhash.h>

#include <algorithm>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/rules.hpp"

namespace chatloop {

uint64_t hash_block(const uint32_t* ids, uint64_t before) {
    return XXH3_64bits_withSeed(ids, kBlockRows * sizeof(uint32_t), before);
}

KvBlocks::KvBlocks(uint32_t slots, uint32_t blocks, uint64_t fingerprint, BlockHash hash)
    : slot_count_(slots), block_count_(blocks), fingerprint_(fingerprint), hash_(hash) {
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

void KvBlocks::return_slot(Slot slot) {
    --slots_out_;
    returned_slots_.push_back(slot);
}

bool KvBlocks::can_place(std::span<const BlockId> prefix, uint32_t block_count,
                         uint32_t spare) const {
    CL_ASSERT(prefix.size() <= block_count);
    const auto cached = std::count_if(prefix.begin(), prefix.end(),
                                      [this](BlockId block) { return is_cached(block); });
    const uint64_t needed = uint64_t{block_count} - prefix.size() + cached + spare;
    return free_slots() > 0 && needed <= free_blocks();
}

// As slots, and when all are taken the cached one that was not used for the longest time.
BlockId KvBlocks::take_block() {
    CL_ASSERT(can_take(1));
    ++blocks_held_;
    if (returned_blocks_.empty() && blocks_.size() < block_count_) {
        blocks_.emplace_back().references = 1;
        return static_cast<BlockId>(blocks_.size() - 1);
    }
    if (returned_blocks_.empty()) {
        forget(unused_.front());
        ++evictions_;
    }
    const BlockId block = returned_blocks_.back();
    returned_blocks_.pop_back();
    CL_ASSERT(blocks_[block].references == 0);
    blocks_[block].references = 1;
    return block;
}

void KvBlocks::hold(BlockId block) {
    if (is_cached(block)) {
        unused_.erase(blocks_[block].unused);
        ++blocks_held_;
    }
    ++blocks_[block].references;
}

void KvBlocks::release_block(BlockId block) {
    CL_ASSERT(blocks_[block].references > 0);
    if (--blocks_[block].references > 0) return;
    --blocks_held_;
    if (blocks_[block].entry == nullptr)
        returned_blocks_.push_back(block);
    else
        blocks_[block].unused = unused_.insert(unused_.end(), block);
}

bool KvBlocks::is_cached(BlockId block) const {
    return blocks_[block].references == 0 && blocks_[block].entry != nullptr;
}

void KvBlocks::touch(BlockId block) {
    if (is_cached(block)) unused_.splice(unused_.end(), unused_, blocks_[block].unused);
}

// ---- the prefix cache ----

bool KvBlocks::is_known(const Chain& chain) const {
    if (chain.length == 0) return true;
    const Entry* entry = blocks_[chain.last].entry.get();
    return entry != nullptr && entry->serial == chain.serial;
}

// The block that continues the chain by these ids.
std::optional<BlockId> KvBlocks::look_up(const Chain& chain, const uint32_t* ids,
                                         uint64_t hash) const {
    const auto found = entries_.find(hash);
    if (found == entries_.end()) return std::nullopt;
    const Entry& entry = *blocks_[found->second].entry;
    const bool equal = entry.parent == chain.last &&
                       (std::equal(entry.ids.begin(), entry.ids.end(), ids) ||
                        !holds(Rule::kPrefixIds));
    return equal ? std::optional(found->second) : std::nullopt;
}

void KvBlocks::extend(Chain& chain, BlockId block) const {
    const Entry& entry = *blocks_[block].entry;
    chain = {chain.length + 1, block, entry.serial, entry.hash};
}

std::vector<BlockId> KvBlocks::find_prefix(std::span<const uint32_t> ids) {
    std::vector<BlockId> blocks;
    const size_t last = holds(Rule::kPrefixLast) ? 1 : 0;
    const size_t length_max = ids.empty() ? 0 : (ids.size() - last) / kBlockRows;
    Chain chain{0, kNoBlock, 0, fingerprint_};
    while (chain.length < length_max) {
        const uint32_t* rows = ids.data() + size_t{chain.length} * kBlockRows;
        const std::optional<BlockId> block = look_up(chain, rows, hash_(rows, chain.hash));
        if (!block) break;
        extend(chain, *block);
        blocks.push_back(*block);
    }
    for (size_t i = blocks.size(); i-- > 0;) touch(blocks[i]);
    return blocks;
}

void KvBlocks::fill(Placement& placement, std::span<const BlockId> prefix, uint32_t block_count) {
    placement.clears_ = clears_;
    placement.known_.hash = fingerprint_;
    for (const BlockId block : prefix) {
        CL_ASSERT(blocks_[block].entry != nullptr);
        CL_ASSERT(blocks_[block].entry->parent == placement.known_.last);
        extend(placement.known_, block);
        hold(block);
    }
    hits_ += prefix.size();
    placement.blocks_found = placement.known_.length;
    placement.blocks.assign(prefix.begin(), prefix.end());
    while (placement.blocks.size() < block_count) placement.blocks.push_back(take_block());
}

// A cached block is less recent than its parent. So the deepest is released first; and where the
// content of a block is known in another one, that one is touched in its turn.
void KvBlocks::release(const Placement& placement) {
    const std::vector<BlockId>& blocks = placement.blocks;
    const Chain& known = placement.known_;
    BlockId twin = kNoBlock;
    for (size_t i = blocks.size(); i-- > 0;) {
        if (i + 1 == known.length && is_known(known)) twin = known.last;
        BlockId parent = kNoBlock;
        if (twin != kNoBlock) {
            touch(twin);
            parent = blocks_[twin].entry->parent;
        }
        if (const auto& entry = blocks_[blocks[i]].entry) parent = entry->parent;
        release_block(blocks[i]);
        twin = parent;
    }
}

// The chain is gone when it ran over a block of another placement that was evicted since: then this
// one's own blocks take its place.
void KvBlocks::publish(Placement& placement, std::span<const uint32_t> ids,
                       uint32_t rows_confirmed) {
    CL_ASSERT(rows_confirmed <= ids.size());
    CL_ASSERT(rows_confirmed <= placement.blocks.size() * kBlockRows);
    if (placement.clears_ != clears_) return;
    Chain& chain = placement.known_;
    if (!is_known(chain)) chain = {0, kNoBlock, 0, fingerprint_};
    while (chain.length < rows_confirmed / kBlockRows) {
        const uint32_t* rows = ids.data() + size_t{chain.length} * kBlockRows;
        const uint64_t hash = hash_(rows, chain.hash);
        std::optional<BlockId> block = look_up(chain, rows, hash);
        if (!block) {
            if (entries_.contains(hash)) return;  // a collision: what was there first stays
            block = placement.blocks[chain.length];
            add_entry(*block, chain, rows, hash);
        }
        extend(chain, *block);
    }
}

void KvBlocks::add_entry(BlockId block, const Chain& chain, const uint32_t* ids, uint64_t hash) {
    CL_ASSERT(blocks_[block].entry == nullptr);
    auto entry = std::make_unique<Entry>();
    entry->hash = hash;
    entry->serial = ++last_serial_;
    entry->parent = chain.last;
    std::copy_n(ids, kBlockRows, entry->ids.begin());
    if (chain.last != kNoBlock) {
        BlockId& first = blocks_[chain.last].entry->child;
        entry->next = first;
        if (first != kNoBlock) blocks_[first].entry->previous = block;
        first = block;
    }
    blocks_[block].entry = std::move(entry);
    entries_.emplace(hash, block);
}

void KvBlocks::unlink(const Entry& entry) {
    if (entry.next != kNoBlock) blocks_[entry.next].entry->previous = entry.previous;
    if (entry.previous != kNoBlock)
        blocks_[entry.previous].entry->next = entry.next;
    else if (entry.parent != kNoBlock)
        blocks_[entry.parent].entry->child = entry.next;
}

// The entry of a block, and those below it, which nobody could find any more.
void KvBlocks::forget(BlockId block) {
    unlink(*blocks_[block].entry);
    std::vector<BlockId> below{block};
    while (!below.empty()) {
        const BlockId id = below.back();
        below.pop_back();
        const Entry& entry = *blocks_[id].entry;
        if (entry.child != kNoBlock) below.push_back(entry.child);
        if (id != block && entry.next != kNoBlock) below.push_back(entry.next);
        entries_.erase(entry.hash);
        if (is_cached(id)) {
            unused_.erase(blocks_[id].unused);
            returned_blocks_.push_back(id);
        }
        blocks_[id].entry.reset();
    }
}

void KvBlocks::clear_cache() {
    while (!entries_.empty()) {
        BlockId root = entries_.begin()->second;
        while (blocks_[root].entry->parent != kNoBlock) root = blocks_[root].entry->parent;
        forget(root);
    }
    ++clears_;
}

// ---- placements ----

Placement::Placement(std::shared_ptr<KvBlocks> pool, Admission admitted, uint32_t block_count,
                     std::span<const BlockId> prefix)
    : kv(std::move(pool)), admission(admitted), slot(kv->take_slot()) {
    kv->fill(*this, prefix, block_count);
}

Placement::~Placement() {
    kv->release(*this);
    kv->return_slot(slot);
}

bool Placement::grow(uint32_t block_count) {
    if (!kv->can_take(block_count)) return false;
    for (uint32_t i = 0; i < block_count; ++i) blocks.push_back(kv->take_block());
    return true;
}

std::shared_ptr<Placement> place(const std::shared_ptr<KvBlocks>& kv, Admission admission,
                                 uint32_t block_count, std::span<const BlockId> prefix) {
    if (!kv->can_place(prefix, block_count)) return nullptr;
    return std::make_shared<Placement>(kv, admission, block_count, prefix);
}

}  // namespace chatloop
