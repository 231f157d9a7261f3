// Rules 6 and 7 of docs/protocol.md: references of blocks, and credit that returns exactly once.
#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/credit.hpp"
#include "chatloop/router/kv_blocks.hpp"

using namespace chatloop;

TEST_CASE("a placement takes its own slot and blocks, and none are left over") {
    const auto kv = std::make_shared<KvBlocks>(2, 5, 7);
    const auto a = place(kv, 1, 3);
    REQUIRE(a != nullptr);
    const auto b = place(kv, 2, 2);
    REQUIRE(b != nullptr);
    CHECK(a->slot != b->slot);
    std::set<BlockId> all(a->blocks.begin(), a->blocks.end());
    all.insert(b->blocks.begin(), b->blocks.end());
    CHECK(all == std::set<BlockId>{0, 1, 2, 3, 4});
    CHECK(kv->free_blocks() == 0);
    CHECK(kv->free_slots() == 0);
    CHECK(place(kv, 3, 0) == nullptr);
}

TEST_CASE("a pool of any size costs what is used of it") {
    std::vector<std::unique_ptr<KvBlocks>> pools;
    for (int i = 0; i < 1024; ++i) {
        pools.push_back(std::make_unique<KvBlocks>(kSlotsMax, kBlocksMax, 7));
        CHECK(pools.back()->take_block() == 0);
        CHECK(pools.back()->take_slot() == 0);
    }
    CHECK(pools[0]->free_blocks() == kBlocksMax - 1);
    CHECK(pools[0]->free_slots() == kSlotsMax - 1);
}

TEST_CASE("a placement that does not fit takes nothing") {
    const auto kv = std::make_shared<KvBlocks>(2, 5, 7);
    CHECK(place(kv, 1, 6) == nullptr);
    CHECK(kv->free_blocks() == 5);
    CHECK(kv->free_slots() == 2);
}

TEST_CASE("slot and blocks return with the last reference only") {
    const auto kv = std::make_shared<KvBlocks>(1, 4, 7);
    auto sequence = place(kv, 1, 4);
    auto in_flight = sequence;
    auto another = sequence;
    sequence.reset();
    in_flight.reset();
    CHECK(kv->free_blocks() == 0);
    CHECK(kv->free_slots() == 0);
    another.reset();
    CHECK(kv->free_blocks() == 4);
    CHECK(kv->free_slots() == 1);
}

TEST_CASE("a pool outlives its route while frames refer to it") {
    auto kv = std::make_shared<KvBlocks>(1, 4, 7);
    const std::weak_ptr<KvBlocks> watch = kv;
    auto placement = place(kv, 1, 2);
    kv.reset();
    CHECK_FALSE(watch.expired());
    placement.reset();
    CHECK(watch.expired());
}

TEST_CASE("a block with two references is free after both are released") {
    KvBlocks kv(1, 2, 7);
    const BlockId block = kv.take_block();
    CHECK(kv.free_blocks() == 1);
    kv.release_block(block);
    CHECK(kv.free_blocks() == 2);
}

TEST_CASE("credit is bounded by frames and bytes, but one frame always fits") {
    CreditAccount account({3, 100, 0, 0});
    CHECK(account.allows(1000));  // larger than the share, and alone
    account.debit(1, 60);
    CHECK(account.allows(40));
    CHECK_FALSE(account.allows(41));
    account.debit(1, 20);
    account.debit(2, 20);
    CHECK_FALSE(account.allows(0));
    CHECK(account.frames_out() == 3);
}

TEST_CASE("credit returns exactly once: by RESULT or by FENCED, whichever comes first") {
    CreditAccount account({4, 100, 0, 0});
    account.debit(1, 10);
    account.debit(1, 20);
    account.debit(2, 30);
    account.credit(1, 10);
    CHECK(account.frames_out() == 2);
    account.fenced(1);
    CHECK(account.frames_out() == 1);
    account.credit(1, 20);  // its RESULT comes after all
    account.fenced(1);      // and FENCED once more
    CHECK(account.frames_out() == 1);
    CHECK(account.allows(70));
    CHECK_FALSE(account.allows(71));
    account.credit(2, 30);
    CHECK(account.frames_out() == 0);
    account.fenced(2);
    CHECK(account.frames_out() == 0);
    CHECK(account.allows(1'000'000));
}

TEST_CASE("FENCED is cumulative and leaves younger generations owing") {
    CreditAccount account({8, 1000, 0, 0});
    for (Generation generation = 1; generation <= 4; ++generation) account.debit(generation, 10);
    account.fenced(3);
    CHECK(account.frames_out() == 1);
    account.fenced(0);
    CHECK(account.frames_out() == 1);
    account.credit(4, 10);
    CHECK(account.frames_out() == 0);
}
