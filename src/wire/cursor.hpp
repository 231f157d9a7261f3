// Reads msgpack front to back, without a tree and without memory of its own: for what travels with
// every token. As with Value (reader.hpp) the first thing that is wrong goes to the Problem, and
// every read after it gives zero, nothing or empty.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "chatloop/wire/codec.hpp"
#include "reader.hpp"

namespace chatloop::wire {

inline constexpr uint32_t kDepthMax = 8;  // arrays and maps within each other; the page needs 5

// What a value begins with.
struct Head {
    enum Kind : uint8_t { kInteger, kNegative, kNil, kBoolean, kF32, kF64, kStr, kBin, kArray,
                          kMap };
    Kind kind = kNil;
    uint64_t value = 0;  // the integer, a float's bits, the bytes of a body, how many elements
};

// Steps over the head at `offset`; nothing when it is cut off, an extension or no msgpack.
std::optional<Head> read_head(ByteView bytes, size_t& offset);

// The end of the msgpack value that begins at `offset`, or nothing when there is no whole value, it
// nests deeper than kDepthMax, has extension types, or announces more elements than bytes are left
// for.
std::optional<size_t> value_end(ByteView bytes, size_t offset);

class Cursor {
public:
    Cursor(ByteView bytes, Problem& problem) : bytes_(bytes), problem_(&problem) {}

    bool at_end() const { return offset_ == bytes_.size(); }

    uint8_t u8(std::string_view name, uint8_t low = 0, uint8_t high = UINT8_MAX);
    uint32_t u32(std::string_view name, uint32_t low = 0, uint32_t high = UINT32_MAX);
    uint64_t u64(std::string_view name, uint64_t low = 0, uint64_t high = UINT64_MAX);
    float f32(std::string_view name);  // any but NaN
    std::string_view bin(std::string_view name, size_t bytes_max);
    // Opens an array or a map: how many elements or pairs are to be read next.
    size_t array(std::string_view name, size_t count_min, size_t count_max);
    size_t map(std::string_view name, size_t pairs_max);
    void numbers(std::string_view name, size_t count_max, uint32_t high,
                 std::vector<uint32_t>& values);
    bool take_nil();  // steps over a nil, if one is next
    bool next_is_bin() const;
    void skip(std::string_view name);

private:
    // The next head, if it is of that kind.
    std::optional<Head> take(Head::Kind kind);
    uint64_t integer(std::string_view name, uint64_t low, uint64_t high);

    ByteView bytes_;
    size_t offset_ = 0;
    Problem* problem_;
};

}  // namespace chatloop::wire
