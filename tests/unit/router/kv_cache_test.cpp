// The prefix cache: what is found, what is evicted and when, and that a collision is a miss.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "chatloop/router/kv_blocks.hpp"

using namespace chatloop;

namespace {

using Ids = std::vector<uint32_t>;
using Blocks = std::vector<BlockId>;

constexpr uint64_t kFingerprint = 7;

std::shared_ptr<KvBlocks> pool(uint32_t blocks, BlockHash hash = hash_block) {
    return std::make_shared<KvBlocks>(8, blocks, kFingerprint, hash);
}

// A full block of ids for each letter, and one id more: the row whose output is wanted.
Ids text(const std::string& letters) {
    Ids ids;
    for (const char letter : letters) ids.insert(ids.end(), kBlockRows, uint32_t(letter));
    ids.push_back(0);
    return ids;
}

// A sequence that was computed up to its last full block.
std::shared_ptr<Placement> computed(const std::shared_ptr<KvBlocks>& kv, const Ids& ids) {
    static Admission admission = 0;
    auto placement = place(kv, ++admission, blocks_for(ids.size()), kv->find_prefix(ids));
    REQUIRE(placement != nullptr);
    kv->publish(*placement, ids, static_cast<uint32_t>(ids.size()));
    return placement;
}

uint64_t same_hash(const uint32_t*, uint64_t) { return 1; }
uint64_t hash_without_chain(const uint32_t* ids, uint64_t) { return ids[0]; }

}  // namespace

TEST_CASE("the hash of a block is that of its 64 ids and of the block before") {
    Ids ids(kBlockRows);
    std::iota(ids.begin(), ids.end(), 0u);
    const uint64_t hash = hash_block(ids.data(), kFingerprint);
    CHECK(hash == hash_block(ids.data(), kFingerprint));
    CHECK(hash != hash_block(ids.data(), kFingerprint + 1));
    ++ids.back();
    CHECK(hash != hash_block(ids.data(), kFingerprint));
}

TEST_CASE("a prefix is found while its sequence runs and when it has ended") {
    const auto kv = pool(8);
    auto first = computed(kv, text("ab"));
    const Blocks shared(first->blocks.begin(), first->blocks.begin() + 2);
    CHECK(kv->find_prefix(text("ab")) == shared);
    CHECK(kv->cached_blocks() == 0);
    first.reset();
    CHECK(kv->cached_blocks() == 2);
    CHECK(kv->free_blocks() == 8);
    CHECK(kv->find_prefix(text("abc")) == shared);
    CHECK(kv->find_prefix(text("ac")) == Blocks{shared[0]});
    CHECK(kv->find_prefix(text("ba")).empty());
    CHECK(kv->find_prefix({}).empty());

    const auto second = computed(kv, text("abc"));
    CHECK(second->blocks_found == 2);
    CHECK(std::equal(shared.begin(), shared.end(), second->blocks.begin()));
    CHECK(kv->cached_blocks() == 0);
    CHECK(kv->free_blocks() == 4);
    CHECK(kv->hits() == 2);
}

TEST_CASE("the last id is never found: its row is computed") {
    const auto kv = pool(8);
    const auto first = computed(kv, text("ab"));
    Ids ids = text("ab");
    ids.pop_back();  // two full blocks exactly
    CHECK(kv->find_prefix(ids).size() == 1);
    ids.resize(kBlockRows + 1);
    CHECK(kv->find_prefix(ids).size() == 1);
    ids.resize(kBlockRows);
    CHECK(kv->find_prefix(ids).empty());
}

TEST_CASE("only confirmed rows of full blocks can be found") {
    const auto kv = pool(8);
    const Ids ids = text("ab");
    const auto placement = place(kv, 1, 3);
    kv->publish(*placement, ids, kBlockRows - 1);
    CHECK(kv->find_prefix(ids).empty());
    kv->publish(*placement, ids, 2 * kBlockRows - 1);
    CHECK(kv->find_prefix(ids) == Blocks{placement->blocks[0]});
    kv->publish(*placement, ids, 2 * kBlockRows);
    CHECK(kv->find_prefix(ids).size() == 2);
}

TEST_CASE("generated tokens count as well as prompts") {
    const auto kv = pool(8);
    Ids ids = text("a");
    auto placement = computed(kv, ids);
    REQUIRE(placement->grow(1));
    while (ids.size() < 2 * kBlockRows) ids.push_back(9);
    kv->publish(*placement, ids, 2 * kBlockRows);
    placement.reset();
    ids.push_back(10);
    CHECK(kv->find_prefix(ids).size() == 2);
}

TEST_CASE("free blocks are taken before cached ones, and of these the longest unused") {
    const auto kv = pool(6);
    for (const char* name : {"a", "b", "c"}) computed(kv, text(name));
    CHECK(kv->cached_blocks() == 3);
    CHECK(kv->find_prefix(text("a")).size() == 1);  // now b was not used for longest
    const auto free = place(kv, 1, 3);
    CHECK(kv->cached_blocks() == 3);
    CHECK(kv->evictions() == 0);
    const auto more = place(kv, 2, 1);
    CHECK(kv->evictions() == 1);
    CHECK(kv->find_prefix(text("b")).empty());
    CHECK(kv->find_prefix(text("c")).size() == 1);
    CHECK(kv->find_prefix(text("a")).size() == 1);
}

TEST_CASE("the deepest block of a chain is evicted first") {
    const auto kv = pool(4);
    computed(kv, text("abc"));
    Blocks taken;
    for (size_t left = 3; left > 0; --left) {
        if (taken.empty()) taken.push_back(kv->take_block());  // the free one
        CHECK(kv->find_prefix(text("abc")).size() == left);
        taken.push_back(kv->take_block());
    }
    CHECK(kv->find_prefix(text("abc")).empty());
    CHECK_FALSE(kv->can_take(1));
    for (const BlockId block : taken) kv->release_block(block);
    CHECK(kv->free_blocks() == 4);
}

TEST_CASE("a placement takes its prefix out of what can be evicted") {
    const auto kv = pool(4);
    computed(kv, text("abc"));
    const Blocks prefix = kv->find_prefix(text("abc"));
    CHECK(kv->can_place(prefix, 4));
    CHECK_FALSE(kv->can_place(prefix, 4, 1));
    CHECK_FALSE(kv->can_place(prefix, 5));
    CHECK(place(kv, 1, 5, prefix) == nullptr);
    CHECK(kv->cached_blocks() == 3);
    const auto placement = place(kv, 2, 4, prefix);
    REQUIRE(placement != nullptr);
    CHECK(std::equal(prefix.begin(), prefix.end(), placement->blocks.begin()));
    CHECK_FALSE(placement->grow(1));
    CHECK(placement->blocks.size() == 4);
}

TEST_CASE("growing is all or nothing and takes cached blocks") {
    const auto kv = pool(4);
    computed(kv, text("ab"));
    const auto placement = place(kv, 1, 1);
    CHECK_FALSE(placement->grow(4));
    CHECK(kv->cached_blocks() == 2);
    CHECK(placement->grow(3));
    CHECK(kv->cached_blocks() == 0);
    CHECK(kv->evictions() == 2);
    CHECK(placement->blocks.size() == 4);
}

TEST_CASE("two sequences that compute the same at the same time: the first one's blocks stay") {
    const auto kv = pool(8);
    const Ids ids = text("ab");
    auto first = place(kv, 1, 3);
    auto second = place(kv, 2, 3);
    kv->publish(*first, ids, 2 * kBlockRows);
    kv->publish(*second, ids, 2 * kBlockRows);
    CHECK(kv->find_prefix(ids) == Blocks{first->blocks[0], first->blocks[1]});
    second.reset();
    CHECK(kv->cached_blocks() == 0);  // its blocks are no better than free ones
    first.reset();
    CHECK(kv->cached_blocks() == 2);
}

TEST_CASE("what continues another sequence's blocks is evicted before them") {
    const auto kv = pool(7);
    auto first = computed(kv, text("a"));
    auto second = place(kv, 100, 3);  // did not find it, being as early
    kv->publish(*second, text("ab"), 2 * kBlockRows);
    const Blocks chain{first->blocks[0], second->blocks[1]};
    CHECK(kv->find_prefix(text("ab")) == chain);
    first.reset();
    second.reset();
    CHECK(kv->cached_blocks() == 2);
    const auto free = place(kv, 101, 5);
    const auto one = place(kv, 102, 1);
    CHECK(one->blocks == Blocks{chain[1]});
    CHECK(kv->find_prefix(text("ab")) == Blocks{chain[0]});
}

TEST_CASE("a sequence whose prefix was evicted from under it offers its own blocks") {
    const auto kv = pool(6);
    auto first = computed(kv, text("a"));
    auto second = place(kv, 100, 4);
    kv->publish(*second, text("ab"), 2 * kBlockRows);
    first.reset();
    const auto rest = place(kv, 101, 2);  // one was free, one had "a"
    CHECK(kv->find_prefix(text("ab")).empty());
    kv->publish(*second, text("abc"), 3 * kBlockRows);
    CHECK(kv->find_prefix(text("abc")) ==
          Blocks(second->blocks.begin(), second->blocks.begin() + 3));
}

TEST_CASE("a collision is a miss, and what was there first stays") {
    for (const BlockHash hash : {same_hash, hash_without_chain}) {
        const auto kv = pool(8, hash);
        const auto first = computed(kv, text("ab"));
        CHECK(kv->find_prefix(text("b")).empty());
        const Blocks known = kv->find_prefix(text("ab"));
        CHECK(known.size() == (hash == same_hash ? 1 : 2));
        const auto other = computed(kv, text("b"));
        CHECK(kv->find_prefix(text("ab")) == known);
        CHECK(kv->find_prefix(text("b")).empty());
    }
    // The same ids behind another prefix, with the same hash.
    const auto kv = pool(8, hash_without_chain);
    const auto first = computed(kv, text("ab"));
    const auto other = computed(kv, text("cb"));
    CHECK(kv->find_prefix(text("cb")) == Blocks{other->blocks[0]});
}

TEST_CASE("a place of the table that a collision had is free after its eviction") {
    const auto kv = pool(3, same_hash);
    auto first = computed(kv, text("a"));
    const auto other = place(kv, 100, 1);
    kv->publish(*other, text("b"), kBlockRows);
    CHECK(kv->find_prefix(text("b")).empty());
    first.reset();
    const auto rest = place(kv, 101, 2);
    kv->publish(*other, text("b"), kBlockRows);
    CHECK(kv->find_prefix(text("b")) == other->blocks);
}

TEST_CASE("after clear_cache nothing is found, and held blocks return to the free ones") {
    const auto kv = pool(8);
    computed(kv, text("xy"));
    auto held = computed(kv, text("ab"));
    CHECK(kv->cached_blocks() == 2);
    kv->clear_cache();
    CHECK(kv->cached_blocks() == 0);
    CHECK(kv->find_prefix(text("xy")).empty());
    CHECK(kv->find_prefix(text("ab")).empty());
    kv->publish(*held, text("ab"), 2 * kBlockRows);  // computed by a stage that is gone
    CHECK(kv->find_prefix(text("ab")).empty());
    held.reset();
    CHECK(kv->cached_blocks() == 0);
    CHECK(kv->free_blocks() == 8);
    const auto fresh = computed(kv, text("ab"));
    CHECK(kv->find_prefix(text("ab")).size() == 2);
}
