#include "chatloop/router/kv_blocks.hpp"

#include <xxhash.h>

#include <algorithm>

#include "chatloop/core/assert.hpp"

namespace chatloop {

uint64_t xxh3_block(std::span<const uint32_t> ids, uint64_t before) {
    return XXH3_64bits_withSeed(ids.data(), ids.size_bytes(), before);
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

BlockId KvBlocks::take_block() {
    CL_ASSERT(free_blocks() > 0);
    if (returned_blocks_.empty() && blocks_.size() < block_count_) {
        returned_blocks_.push_back(static_cast<BlockId>(blocks_.size()));
        blocks_.emplace_back();
    }
    if (returned_blocks_.empty()) {
        ++evictions_;
        forget(oldest_);
    }
    const BlockId block = returned_blocks_.back();
    returned_blocks_.pop_back();
    CL_ASSERT(blocks_[block].holders == 0 && blocks_[block].entry == nullptr);
    blocks_[block].holders = 1;
    ++blocks_held_;
    return block;
}

void KvBlocks::hold(BlockId block) {
    if (blocks_[block].holders++ > 0) return;
    unlink(block);
    ++blocks_held_;
}

void KvBlocks::release(BlockId block) {
    CL_ASSERT(blocks_[block].holders > 0);
    if (--blocks_[block].holders > 0) return;
    --blocks_held_;
    if (blocks_[block].entry != nullptr) link_newest(block);
    else returned_blocks_.push_back(block);
}

void KvBlocks::link_newest(BlockId block) {
    blocks_[block].older = newest_;
    blocks_[block].newer = kNoBlock;
    (newest_ == kNoBlock ? oldest_ : blocks_[newest_].newer) = block;
    newest_ = block;
    ++cached_;
}

void KvBlocks::unlink(BlockId block) {
    const auto [older, newer] = std::pair(blocks_[block].older, blocks_[block].newer);
    (older == kNoBlock ? oldest_ : blocks_[older].newer) = newer;
    (newer == kNoBlock ? newest_ : blocks_[newer].older) = older;
    --cached_;
}

// Its content is nobody's business any more; a cached one is free then.
void KvBlocks::forget(BlockId block) {
    const std::unique_ptr<Entry> entry = std::move(blocks_[block].entry);
    CL_ASSERT(entry != nullptr);
    by_hash_.erase(entry->hash);
    if (blocks_[block].holders > 0) return;
    unlink(block);
    returned_blocks_.push_back(block);
}

void KvBlocks::forget_contents() {
    for (BlockId block = 0; block < blocks_.size(); ++block)
        if (blocks_[block].entry != nullptr) forget(block);
}

// Found by hash, confirmed by ids and by the identity of the block before it.
const KvBlocks::Entry* KvBlocks::find(uint64_t hash, uint64_t before,
                                      std::span<const uint32_t> ids, BlockId* block) const {
    const auto found = by_hash_.find(hash);
    if (found == by_hash_.end()) return nullptr;
    const Entry& entry = *blocks_[found->second].entry;
    if (entry.before != before || !std::equal(ids.begin(), ids.end(), entry.ids.begin()))
        return nullptr;
    *block = found->second;
    return &entry;
}

Prefix KvBlocks::find_prefix(std::span<const uint32_t> ids) const {
    Prefix prefix{{}, {fingerprint_, 0}};
    const size_t blocks = ids.empty() ? 0 : (ids.size() - 1) / kBlockRows;
    for (size_t i = 0; i < blocks; ++i) {
        const auto of_block = ids.subspan(i * kBlockRows, kBlockRows);
        const uint64_t hash = hash_(of_block, prefix.end.hash);
        BlockId block = kNoBlock;
        const Entry* entry = find(hash, prefix.end.serial, of_block, &block);
        if (entry == nullptr) break;
        prefix.blocks.push_back(block);
        prefix.end = {hash, entry->serial};
    }
    return prefix;
}

bool KvBlocks::can_place(const Prefix& prefix, uint32_t block_count, uint32_t spare) const {
    const auto from_cache = static_cast<uint32_t>(
        std::count_if(prefix.blocks.begin(), prefix.blocks.end(),
                      [&](BlockId block) { return blocks_[block].holders == 0; }));
    const uint64_t needed = uint64_t{block_count} - prefix.size() + from_cache + spare;
    return free_slots() > 0 && needed <= free_blocks();
}

// Two sequences may compute the same block at the same time: the first one stays, the other is
// nobody's but its own. What only shares the hash gives way.
PrefixEnd KvBlocks::publish(BlockId block, const PrefixEnd& end, std::span<const uint32_t> ids) {
    const uint64_t hash = hash_(ids, end.hash);
    BlockId other = kNoBlock;
    if (const Entry* entry = find(hash, end.serial, ids, &other)) return {hash, entry->serial};
    if (const auto same_hash = by_hash_.find(hash); same_hash != by_hash_.end())
        forget(same_hash->second);
    auto entry = std::make_unique<Entry>();
    entry->hash = hash;
    entry->serial = ++last_serial_;
    entry->before = end.serial;
    std::copy(ids.begin(), ids.end(), entry->ids.begin());
    by_hash_[hash] = block;
    blocks_[block].entry = std::move(entry);
    return {hash, last_serial_};
}

Placement::Placement(std::shared_ptr<KvBlocks> pool, Admission admitted, uint32_t block_count,
                     const Prefix& prefix)
    : kv(std::move(pool)),
      admission(admitted),
      slot(kv->take_slot()),
      blocks(prefix.blocks),
      published_(prefix.size()),
      end_(prefix.blocks.empty() ? PrefixEnd{kv->fingerprint_, 0} : prefix.end) {
    CL_ASSERT(prefix.size() <= block_count);
    for (const BlockId block : blocks) kv->hold(block);
    while (blocks.size() < block_count) blocks.push_back(kv->take_block());
}

// The last block first: of a chain that nobody holds, the end is taken before what it stands on.
Placement::~Placement() {
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) kv->release(*block);
    kv->return_slot(slot);
}

bool Placement::grow(uint32_t count) {
    if (kv->free_blocks() < count) return false;
    for (uint32_t i = 0; i < count; ++i) blocks.push_back(kv->take_block());
    return true;
}

void Placement::publish(std::span<const uint32_t> ids, uint32_t rows) {
    for (; (published_ + 1) * kBlockRows <= rows; ++published_)
        end_ = kv->publish(blocks[published_], end_,
                           ids.subspan(size_t{published_} * kBlockRows, kBlockRows));
}

std::shared_ptr<Placement> place(const std::shared_ptr<KvBlocks>& kv, Admission admission,
                                 uint32_t block_count, const Prefix& prefix) {
    if (!kv->can_place(prefix, block_count)) return nullptr;
    return std::make_shared<Placement>(kv, admission, block_count, prefix);
}

}  // namespace chatloop
