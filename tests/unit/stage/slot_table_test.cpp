// Rule 5 of docs/protocol.md, rule by rule, and all of it against a model that keeps every row.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "chatloop/stage/slot_table.hpp"

using namespace chatloop;

namespace {

constexpr uint32_t kRows = 64;

struct ItemSpec {
    Slot slot = 0;
    uint32_t position = 0;
    uint32_t rows = 1;
    uint32_t table_index = 0;
    std::vector<BlockId> blocks = {};
    bool first = false;
};

wire::Item make_item(const ItemSpec& spec) {
    wire::Item item;
    item.slot = spec.slot;
    item.admission = 1;
    item.position = spec.position;
    item.rows = spec.rows;
    item.table_index = spec.table_index;
    item.blocks = spec.blocks;
    if (spec.first) item.flags = wire::kItemFirst;
    return item;
}

bool accepts(SlotTable& table, Generation generation, const ItemSpec& spec) {
    return table.accept(generation, make_item(spec));
}

std::vector<BlockId> blocks_of(const SlotTable& table, Slot slot) {
    const auto blocks = table.table(slot);
    return {blocks.begin(), blocks.end()};
}

using Blocks = std::vector<BlockId>;

}  // namespace

TEST_CASE("FIRST fills an empty slot, later items continue it exactly") {
    SlotTable table(2, 8, 4);
    CHECK_FALSE(accepts(table, 1, {.rows = 5, .blocks = {3}}));  // nothing to continue
    CHECK(accepts(table, 1, {.rows = 60, .blocks = {3}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.position = 59, .rows = 1, .table_index = 1}));
    CHECK_FALSE(accepts(table, 1, {.position = 61, .rows = 1, .table_index = 1}));
    CHECK_FALSE(accepts(table, 1, {.position = 60, .rows = 1, .table_index = 0, .blocks = {3}}));
    CHECK_FALSE(accepts(table, 1, {.position = 60, .rows = 5, .table_index = 1}));  // no block
    CHECK(accepts(table, 1, {.position = 60, .rows = 4, .table_index = 1}));
    CHECK(accepts(table, 1, {.position = 64, .rows = 100, .table_index = 1, .blocks = {5, 1}}));
    CHECK(table.rows_held(0) == 164);
    CHECK(blocks_of(table, 0) == Blocks{3, 5, 1});
    CHECK(table.rows_held(1) == 0);
}

TEST_CASE("a refused item changes nothing") {
    SlotTable table(1, 4, 4);
    REQUIRE(accepts(table, 1, {.rows = 10, .blocks = {0}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.position = 11, .rows = 60, .table_index = 1, .blocks = {1}}));
    CHECK_FALSE(accepts(table, 2, {.position = 11, .rows = 60, .table_index = 1, .blocks = {1}}));
    CHECK(table.rows_held(0) == 10);
    CHECK(blocks_of(table, 0) == Blocks{0});
    CHECK(accepts(table, 1, {.position = 10, .rows = 1, .table_index = 1}));
}

TEST_CASE("what is outside of the share is refused") {
    SlotTable table(2, 4, 2);
    CHECK_FALSE(accepts(table, 1, {.slot = 2, .blocks = {0}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.slot = UINT32_MAX, .blocks = {0}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.blocks = {4}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.blocks = {0, kNoBlock}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.rows = 0, .blocks = {0}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.rows = 129, .blocks = {0, 1, 2}, .first = true}));  // the table
    CHECK_FALSE(accepts(table, 1, {.position = UINT32_MAX, .rows = 2, .blocks = {0}}));
    CHECK_FALSE(accepts(table, 1, {.table_index = UINT32_MAX, .blocks = {0}}));
    CHECK(accepts(table, 1, {.slot = 1, .rows = 128, .blocks = {3, 0}, .first = true}));
}

TEST_CASE("only the first item of a slot in a generation may truncate") {
    SlotTable table(1, 8, 4);
    REQUIRE(accepts(table, 1, {.rows = 150, .blocks = {0, 1, 2}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.position = 100, .rows = 1, .table_index = 2}));
    CHECK_FALSE(
        accepts(table, 2, {.position = 151, .rows = 1, .table_index = 3}));  // more than held
    CHECK_FALSE(accepts(table, 2, {.position = 150, .rows = 1, .table_index = 4}));
    CHECK_FALSE(accepts(table, 2, {.position = 100, .rows = 1, .table_index = 1,
                                   .blocks = {5}}));  // through a block that holds kept rows
    CHECK(accepts(table, 2, {.position = 100, .rows = 50, .table_index = 2, .blocks = {7}}));
    CHECK(table.rows_held(0) == 150);
    CHECK(blocks_of(table, 0) == Blocks{0, 1, 7});
    CHECK_FALSE(accepts(table, 2, {.position = 100, .rows = 1, .table_index = 2}));
    CHECK(accepts(table, 2, {.position = 150, .rows = 1, .table_index = 3}));
}

TEST_CASE("without a loss the next generation simply continues") {
    SlotTable table(1, 8, 4);
    REQUIRE(accepts(table, 1, {.rows = 64, .blocks = {0}, .first = true}));
    CHECK(accepts(table, 2, {.position = 64, .rows = 1, .table_index = 1, .blocks = {1}}));
    CHECK(accepts(table, 5, {.position = 0, .rows = 3, .table_index = 0, .blocks = {2}}));
    CHECK(table.rows_held(0) == 3);
    CHECK(blocks_of(table, 0) == Blocks{2});
}

TEST_CASE("FIRST resets the slot in the midst of a generation") {
    SlotTable table(1, 8, 4);
    REQUIRE(accepts(table, 1, {.rows = 150, .blocks = {0, 1, 2}, .first = true}));
    CHECK(accepts(table, 1, {.rows = 2, .blocks = {6}, .first = true}));
    CHECK(table.rows_held(0) == 2);
    CHECK(blocks_of(table, 0) == Blocks{6});
    CHECK_FALSE(accepts(table, 1, {.rows = 2, .table_index = 1, .blocks = {6}, .first = true}));
}

TEST_CASE("a FIRST behind the prefix cache needs full blocks in front of it") {
    SlotTable table(2, 8, 4);
    REQUIRE(accepts(table, 1, {.rows = 127, .blocks = {0, 1}, .first = true}));
    CHECK_FALSE(
        accepts(table, 1, {.slot = 1, .position = 128, .blocks = {0, 1, 2}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.slot = 1, .position = 63, .blocks = {0, 2}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.slot = 1, .position = 64, .blocks = {5, 2}, .first = true}));
    CHECK(accepts(table, 1, {.slot = 1, .position = 64, .blocks = {0, 2}, .first = true}));
    REQUIRE(accepts(table, 1, {.position = 127, .table_index = 2}));
    CHECK(accepts(table, 1, {.slot = 1, .position = 128, .blocks = {0, 1, 2}, .first = true}));
    CHECK(table.rows_held(1) == 129);
}

TEST_CASE("what follows a FIRST that was refused does not continue the slot's sequence of before") {
    SlotTable table(2, 8, 4);
    REQUIRE(accepts(table, 1, {.rows = 137, .blocks = {0, 1, 2}, .first = true}));
    REQUIRE(accepts(table, 1, {.slot = 1, .rows = 5, .blocks = {6}, .first = true}));
    CHECK_FALSE(accepts(table, 2, {.position = 64, .rows = 7, .blocks = {5, 4}, .first = true}));
    CHECK_FALSE(accepts(table, 2, {.position = 71, .rows = 13, .table_index = 2}));
    CHECK(table.rows_held(0) == 0);
    CHECK(table.rows_held(1) == 5);  // another's
    CHECK(accepts(table, 2, {.rows = 7, .blocks = {3}, .first = true}));
}

TEST_CASE("a block that was given out again is not full until it is filled again") {
    SlotTable table(3, 8, 4);
    REQUIRE(accepts(table, 1, {.rows = 64, .blocks = {4}, .first = true}));
    REQUIRE(accepts(table, 1, {.slot = 1, .rows = 10, .blocks = {4}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.slot = 2, .position = 64, .blocks = {4, 5}, .first = true}));
    // One that is only reserved holds nothing either.
    REQUIRE(accepts(table, 1, {.rows = 1, .blocks = {6, 7}, .first = true}));
    CHECK_FALSE(accepts(table, 1, {.slot = 2, .position = 64, .blocks = {7, 5}, .first = true}));
    // Nor one that was cut.
    REQUIRE(accepts(table, 1, {.rows = 64, .blocks = {6}, .first = true}));
    REQUIRE(accepts(table, 2, {.position = 10, .table_index = 1}));
    CHECK_FALSE(accepts(table, 2, {.slot = 2, .position = 64, .blocks = {6, 5}, .first = true}));
}

TEST_CASE("after clear nothing is held and no block is full") {
    SlotTable table(2, 4, 4);
    REQUIRE(accepts(table, 1, {.rows = 64, .blocks = {0}, .first = true}));
    table.clear();
    CHECK(table.rows_held(0) == 0);
    CHECK(table.table(0).empty());
    CHECK_FALSE(accepts(table, 1, {.position = 64, .table_index = 1, .blocks = {1}}));
    CHECK_FALSE(accepts(table, 2, {.position = 0, .table_index = 0, .blocks = {1}}));
    CHECK_FALSE(accepts(table, 1, {.slot = 1, .position = 64, .blocks = {0, 1}, .first = true}));
}

namespace {

constexpr uint32_t kModelBlocks = 3;
constexpr uint32_t kModelTable = 2;

// One slot as a list of rows: each position has a place (block, offset), each place was written or
// not.
struct Model {
    Generation generation = 0;
    uint32_t rows = 0;
    std::vector<BlockId> table;
    std::array<std::set<uint32_t>, kModelBlocks> written;

    auto operator<=>(const Model&) const = default;

    bool accept(Generation now, const wire::Item& item) {
        if (take(now, item)) return true;
        if ((item.flags & wire::kItemFirst) != 0) {  // refused, it has begun anew nonetheless
            generation = 0;
            rows = 0;
            table.clear();
        }
        return false;
    }

private:
    bool take(Generation now, const wire::Item& item) {
        const bool first = (item.flags & wire::kItemFirst) != 0;
        if (first ? !first_fits(item) : !follows(now, item)) return false;
        std::vector<BlockId> next(table.begin(),
                                  table.begin() + (first ? 0 : item.table_index));
        next.insert(next.end(), item.blocks.begin(), item.blocks.end());
        for (const BlockId block : next)
            if (block >= kModelBlocks) return false;
        if (next.size() > kModelTable || item.position + item.rows > next.size() * kRows)
            return false;

        table = std::move(next);
        for (uint32_t at = item.position; at < table.size() * kRows; ++at)
            written[table[at / kRows]].erase(at % kRows);
        for (uint32_t at = item.position; at < item.position + item.rows; ++at)
            written[table[at / kRows]].insert(at % kRows);
        rows = item.position + item.rows;
        generation = now;
        return true;
    }

    bool first_fits(const wire::Item& item) const {
        if (item.table_index != 0 || item.position % kRows != 0) return false;
        for (uint32_t j = 0; j < item.position / kRows; ++j) {
            if (j >= item.blocks.size() || item.blocks[j] >= kModelBlocks) return false;
            if (written[item.blocks[j]].size() != kRows) return false;
        }
        return true;
    }
    bool follows(Generation now, const wire::Item& item) const {
        if (generation == 0) return false;
        if (now == generation) return item.position == rows && item.table_index == table.size();
        if (item.position > rows || item.table_index > table.size()) return false;
        return item.position <= item.table_index * kRows;  // kept rows keep their blocks
    }
};

std::vector<wire::Item> all_items() {
    std::vector<wire::Item> items;
    for (const bool first : {false, true})
        for (const uint32_t position : {0u, 1u, 63u, 64u, 65u, 127u, 128u})
            for (const uint32_t rows : {1u, 63u, 64u, 65u, 128u})
                for (const uint32_t table_index : {0u, 1u, 2u, 3u})
                    for (const Blocks& blocks :
                         {Blocks{}, {0}, {1}, {2}, {3}, {0, 1}, {1, 0}, {1, 2}})
                        items.push_back(make_item({0, position, rows, table_index, blocks, first}));
    return items;
}

// The router never gives a slot the same block twice; the table does not look for it.
bool names_a_block_twice(const Model& model, const wire::Item& item) {
    const bool first = (item.flags & wire::kItemFirst) != 0;
    std::set<BlockId> seen(item.blocks.begin(), item.blocks.end());
    for (size_t j = 0; !first && j < std::min<size_t>(item.table_index, model.table.size()); ++j)
        if (!seen.insert(model.table[j]).second) return true;
    return false;
}

}  // namespace

TEST_CASE("every sequence of three items is accepted and refused as by the model") {
    const std::vector<wire::Item> items = all_items();
    std::vector<std::pair<Model, SlotTable>> level{
        {Model{}, SlotTable(1, kModelBlocks, kModelTable)}};
    size_t accepted = 0;
    size_t wrong = 0;
    for (Generation depth = 1; depth <= 3; ++depth) {
        std::set<Model> seen;
        std::vector<std::pair<Model, SlotTable>> next;
        for (const auto& [model, table] : level) {
            for (const wire::Item& item : items) {
                if (names_a_block_twice(model, item)) continue;
                for (const Generation generation :
                     {std::max<Generation>(model.generation, 1), depth + 1}) {
                    Model expected = model;
                    const bool fits = expected.accept(generation, item);
                    SlotTable got = table;
                    if (got.accept(generation, item) != fits || got.rows_held(0) != expected.rows ||
                        blocks_of(got, 0) != expected.table)
                        ++wrong;
                    if (!fits) continue;
                    ++accepted;
                    if (seen.insert(expected).second) next.emplace_back(expected, std::move(got));
                }
            }
        }
        level = std::move(next);
    }
    CHECK(wrong == 0);
    CHECK(accepted > 10'000);
}
