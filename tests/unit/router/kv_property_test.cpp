// Random lives of sequences over a small pool, against a model that scans everything: who holds
// what, what is known, what is evicted, and that each row which a sequence sees is its own.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "chatloop/router/kv_blocks.hpp"

using namespace chatloop;

namespace {

constexpr uint64_t kFingerprint = 7;
constexpr uint32_t kHeadroomMax = 2;

struct Step {
    uint32_t kind = 0;
    uint32_t which = 0;
    std::string letters;  // one for each block of 64 equal ids
    uint32_t count = 0;
};

std::ostream& operator<<(std::ostream& out, const Step& step) {
    return out << step.kind << '/' << step.which << '/' << step.letters << '/' << step.count;
}

rc::Gen<Step> any_step() {
    const auto letters = rc::gen::resize(
        5, rc::gen::container<std::string>(rc::gen::element('a', 'b')));
    return rc::gen::build<Step>(
        rc::gen::set(&Step::kind, rc::gen::inRange(0u, 16u)),
        rc::gen::set(&Step::which, rc::gen::inRange(0u, 8u)),
        rc::gen::set(&Step::letters, letters),
        rc::gen::set(&Step::count, rc::gen::inRange(0u, 3u * kBlockRows)));
}

uint64_t weak_hash(const uint32_t* ids, uint64_t before) {
    return (hash_block(ids, before) ^ before) % 5;
}

class World {
public:
    World(uint32_t slots, uint32_t blocks, BlockHash hash)
        : kv_(std::make_shared<KvBlocks>(slots, blocks, kFingerprint, hash)),
          hash_(hash), memory_(blocks), stamps_(blocks) {}

    void run(const Step& step) {
        if (step.kind < 4 || sequences_.empty()) {
            admit(step);
        } else {
            Sequence& sequence = sequences_[step.which % sequences_.size()];
            if (step.kind < 7) compute(sequence, step.count);
            else if (step.kind < 11) publish(sequence, step.count);
            else if (step.kind < 13) generate(sequence, step);
            else if (step.kind < 15) end(step.which % sequences_.size());
            else if (step.count < kBlockRows / 2) clear();
        }
        check();
    }

    void end_all() {
        while (!sequences_.empty()) end(0);
        check();
        RC_ASSERT(kv_->free_blocks() == kv_->block_count());
        RC_ASSERT(kv_->free_slots() == kv_->slot_count());
        kv_->clear_cache();
        std::set<BlockId> all;
        while (kv_->can_take(1)) RC_ASSERT(all.insert(kv_->take_block()).second);
        RC_ASSERT(all.size() == kv_->block_count());
    }

private:
    // What is known: the letters up to a block, and the block that holds the last of them.
    struct Entry {
        BlockId block = kNoBlock;
        uint64_t hash = 0;
        uint64_t serial = 0;
    };
    struct Sequence {
        std::shared_ptr<Placement> placement;
        std::string letters;  // of full blocks; one id more follows, of no full block
        uint32_t computed = 0;
        uint32_t confirmed = 0;  // as published last
        bool before_clear = false;
        std::string known;        // content that was known when it was published last
        uint64_t known_serial = 0;
    };

    static std::vector<uint32_t> ids_of(const std::string& letters) {
        std::vector<uint32_t> ids;
        for (const char letter : letters) ids.insert(ids.end(), kBlockRows, uint32_t(letter));
        ids.push_back(0);
        return ids;
    }

    size_t references(BlockId block) const {
        return std::count_if(sequences_.begin(), sequences_.end(), [&](const Sequence& sequence) {
            const std::vector<BlockId>& blocks = sequence.placement->blocks;
            return std::find(blocks.begin(), blocks.end(), block) != blocks.end();
        });
    }

    bool is_known(BlockId block) const {
        return std::any_of(entries_.begin(), entries_.end(),
                           [&](const auto& entry) { return entry.second.block == block; });
    }

    std::vector<BlockId> cached() const {
        std::vector<BlockId> blocks;
        for (const auto& [letters, entry] : entries_)
            if (references(entry.block) == 0) blocks.push_back(entry.block);
        return blocks;
    }

    uint32_t held() const {
        std::set<BlockId> blocks;
        for (const Sequence& sequence : sequences_)
            blocks.insert(sequence.placement->blocks.begin(), sequence.placement->blocks.end());
        return static_cast<uint32_t>(blocks.size());
    }

    void touch(const std::string& letters) {
        for (size_t length = letters.size(); length > 0; --length)
            stamps_[entries_.at(letters.substr(0, length)).block] = ++clock_;
    }

    std::string longest_known(const std::string& letters) const {
        size_t length = 0;
        while (length < letters.size() && entries_.contains(letters.substr(0, length + 1)))
            ++length;
        return letters.substr(0, length);
    }

    // `count` blocks are to be taken from those that nobody holds, while `prefix` is held.
    void expect_taken(const std::vector<BlockId>& taken, std::set<BlockId> in_use,
                      std::vector<BlockId> evictable) {
        uint32_t free = kv_->block_count() - static_cast<uint32_t>(in_use.size()) -
                        static_cast<uint32_t>(evictable.size());
        const auto newer = [&](BlockId a, BlockId b) { return stamps_[a] > stamps_[b]; };
        std::sort(evictable.begin(), evictable.end(), newer);
        for (const BlockId block : taken) {
            RC_ASSERT(in_use.insert(block).second);
            memory_[block].clear();
            if (free > 0) {
                RC_ASSERT(!is_known(block));
                --free;
                continue;
            }
            RC_ASSERT(block == evictable.back());
            evictable.pop_back();
            ++evictions_;
            forget(block);
        }
    }

    // What is below it can be found no more. Nothing of that was cached: children go first.
    void forget(BlockId block) {
        const auto at = std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
            return entry.second.block == block;
        });
        const std::string letters = at->first;
        std::erase_if(entries_, [&](const auto& entry) {
            if (!entry.first.starts_with(letters)) return false;
            if (entry.first != letters) RC_ASSERT(references(entry.second.block) > 0);
            return true;
        });
    }

    void admit(const Step& step) {
        const std::vector<uint32_t> ids = ids_of(step.letters);
        const std::string known = longest_known(step.letters);
        std::vector<BlockId> expected;
        for (size_t i = 0; i < known.size(); ++i)
            expected.push_back(entries_.at(known.substr(0, i + 1)).block);
        const std::vector<BlockId> prefix = kv_->find_prefix(ids);
        RC_ASSERT(prefix == expected);
        touch(known);

        std::vector<BlockId> evictable = cached();
        std::erase_if(evictable, [&](BlockId block) {
            return std::find(prefix.begin(), prefix.end(), block) != prefix.end();
        });
        std::set<BlockId> in_use(prefix.begin(), prefix.end());
        for (const Sequence& sequence : sequences_)
            in_use.insert(sequence.placement->blocks.begin(), sequence.placement->blocks.end());

        const uint32_t count = blocks_for(ids.size()) + step.count % (kHeadroomMax + 1);
        const bool fits = sequences_.size() < kv_->slot_count() &&
                          count - prefix.size() + in_use.size() <= kv_->block_count();
        auto placement = place(kv_, ++admissions_, count, prefix);
        RC_ASSERT((placement != nullptr) == fits);
        if (!fits) return;
        hits_ += prefix.size();
        RC_ASSERT(placement->blocks.size() == count);
        RC_ASSERT(placement->blocks_found == prefix.size());
        RC_ASSERT(std::equal(prefix.begin(), prefix.end(), placement->blocks.begin()));
        expect_taken({placement->blocks.begin() + prefix.size(), placement->blocks.end()}, in_use,
                     evictable);
        Sequence sequence;
        sequence.placement = std::move(placement);
        sequence.letters = step.letters;
        sequence.computed = sequence.confirmed = static_cast<uint32_t>(prefix.size()) * kBlockRows;
        sequence.known = known;
        if (!known.empty()) sequence.known_serial = entries_.at(known).serial;
        sequences_.push_back(std::move(sequence));
    }

    // A worker computes rows: their blocks are this sequence's alone and nobody can find them.
    void compute(Sequence& sequence, uint32_t rows) {
        const uint32_t end = std::min(sequence.computed + rows,
                                      uint32_t(sequence.letters.size()) * kBlockRows);
        for (uint32_t i = sequence.computed / kBlockRows; i < blocks_for(end); ++i) {
            const BlockId block = sequence.placement->blocks[i];
            RC_ASSERT(references(block) == 1u);
            RC_ASSERT(!is_known(block));
            memory_[block] = sequence.letters.substr(0, i + 1);
        }
        sequence.computed = std::max(end, sequence.computed);
    }

    void publish(Sequence& sequence, uint32_t less) {
        const uint32_t rows = std::max(sequence.confirmed,
                                       sequence.computed - std::min(less / 3, sequence.computed));
        sequence.confirmed = rows;
        kv_->publish(*sequence.placement, ids_of(sequence.letters), rows);
        if (sequence.before_clear) return;
        const auto at = entries_.find(sequence.known);
        const bool lives = at != entries_.end() && at->second.serial == sequence.known_serial;
        uint32_t length = lives ? static_cast<uint32_t>(sequence.known.size()) : 0;
        const std::vector<uint32_t> ids = ids_of(sequence.letters);
        uint64_t hash = kFingerprint;
        for (uint32_t i = 0; i < length; ++i) hash = hash_(&ids[i * kBlockRows], hash);
        for (; length < rows / kBlockRows; ++length) {
            hash = hash_(&ids[length * kBlockRows], hash);
            const std::string content = sequence.letters.substr(0, length + 1);
            if (entries_.contains(content)) continue;
            if (std::any_of(entries_.begin(), entries_.end(),
                            [&](const auto& entry) { return entry.second.hash == hash; }))
                break;
            entries_[content] = {sequence.placement->blocks[length], hash, ++serials_};
        }
        sequence.known = sequence.letters.substr(0, length);
        sequence.known_serial = length > 0 ? entries_.at(sequence.known).serial : 0;
    }

    void generate(Sequence& sequence, const Step& step) {
        if (step.letters.empty()) return;
        const std::string letters = sequence.letters + step.letters[0];
        const uint32_t needed = blocks_for(ids_of(letters).size());
        const size_t before = sequence.placement->blocks.size();
        if (needed > before) {
            const uint32_t more = needed - static_cast<uint32_t>(before);
            const bool fits = held() + more <= kv_->block_count();
            const std::vector<BlockId> evictable = cached();
            std::set<BlockId> in_use;
            for (const Sequence& other : sequences_)
                in_use.insert(other.placement->blocks.begin(), other.placement->blocks.end());
            RC_ASSERT(sequence.placement->grow(more) == fits);
            RC_ASSERT(sequence.placement->blocks.size() == before + (fits ? more : 0));
            if (!fits) return;
            expect_taken({sequence.placement->blocks.begin() + before,
                          sequence.placement->blocks.end()}, in_use, evictable);
        }
        sequence.letters = letters;
    }

    // Its content was used now, as deep as it was known to it: the deepest is the oldest of it.
    void end(size_t index) {
        Sequence sequence = std::move(sequences_[index]);
        sequences_.erase(sequences_.begin() + index);
        const auto at = entries_.find(sequence.known);
        size_t depth = 0;
        if (at != entries_.end() && at->second.serial == sequence.known_serial)
            depth = sequence.known.size();
        const std::vector<BlockId>& blocks = sequence.placement->blocks;
        for (size_t i = 0; i < sequence.letters.size(); ++i) {
            const auto own = entries_.find(sequence.letters.substr(0, i + 1));
            if (own != entries_.end() && own->second.block == blocks[i])
                depth = std::max(depth, i + 1);
        }
        touch(sequence.letters.substr(0, depth));
        sequence.placement.reset();
    }

    void clear() {
        kv_->clear_cache();
        entries_.clear();
        for (Sequence& sequence : sequences_) sequence.before_clear = true;
    }

    void check() {
        const auto cached_now = static_cast<uint32_t>(cached().size());
        RC_ASSERT(kv_->cached_blocks() == cached_now);
        RC_ASSERT(kv_->free_blocks() == kv_->block_count() - held());
        RC_ASSERT(kv_->free_slots() == kv_->slot_count() - sequences_.size());
        RC_ASSERT(kv_->hits() == hits_);
        RC_ASSERT(kv_->evictions() == evictions_);
        for (const auto& [letters, entry] : entries_) RC_ASSERT(memory_[entry.block] == letters);
        std::set<Slot> slots;
        for (const Sequence& sequence : sequences_) {
            RC_ASSERT(slots.insert(sequence.placement->slot).second);
            for (uint32_t i = 0; i < blocks_for(sequence.computed); ++i)
                RC_ASSERT(memory_[sequence.placement->blocks[i]] ==
                          sequence.letters.substr(0, i + 1));
        }
    }

    std::shared_ptr<KvBlocks> kv_;
    BlockHash hash_;
    std::vector<std::string> memory_;  // per block: the ids up to its last row
    std::vector<uint64_t> stamps_;     // per block: when it was used last
    std::map<std::string, Entry> entries_;
    std::vector<Sequence> sequences_;
    Admission admissions_ = 0;
    uint64_t clock_ = 0;
    uint64_t serials_ = 0;
    uint64_t hits_ = 0;
    uint64_t evictions_ = 0;
};

void lives(BlockHash hash) {
    const auto slots = *rc::gen::inRange(1u, 7u);
    const auto blocks = *rc::gen::inRange(1u, 17u);
    const auto steps = *rc::gen::resize(400, rc::gen::container<std::vector<Step>>(any_step()));
    World world(slots, blocks, hash);
    for (const Step& step : steps) world.run(step);
    world.end_all();
    RC_CLASSIFY(steps.size() > 100);
}

}  // namespace

TEST_CASE("KV blocks and prefix cache do what the model does") {
    CHECK(rc::check([] { lives(hash_block); }));
}

TEST_CASE("KV blocks and prefix cache do what the model does, when hashes collide") {
    CHECK(rc::check([] { lives(weak_hash); }));
}
