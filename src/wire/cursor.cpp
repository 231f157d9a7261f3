#include "cursor.hpp"

#include <array>
#include <bit>
#include <cmath>

namespace chatloop::wire {
namespace {

// The number of `size` bytes at `offset`, which steps over it.
std::optional<uint64_t> big_endian(ByteView bytes, size_t& offset, size_t size) {
    if (bytes.size() - offset < size) return std::nullopt;
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value = value << 8 | bytes[offset++];
    return value;
}

std::optional<Head> wide(Head::Kind kind, ByteView bytes, size_t& offset, size_t size) {
    const std::optional<uint64_t> value = big_endian(bytes, offset, size);
    if (!value) return std::nullopt;
    return Head{kind, *value};
}

// A signed integer that is not negative counts as any other.
std::optional<Head> wide_signed(ByteView bytes, size_t& offset, size_t size) {
    const std::optional<uint64_t> value = big_endian(bytes, offset, size);
    if (!value) return std::nullopt;
    const bool negative = (*value >> (8 * size - 1)) != 0;
    return Head{negative ? Head::kNegative : Head::kInteger, *value};
}

}  // namespace

std::optional<Head> read_head(ByteView bytes, size_t& offset) {
    if (offset >= bytes.size()) return std::nullopt;
    const uint8_t type = bytes[offset++];
    if (type <= 0x7f) return Head{Head::kInteger, type};
    if (type <= 0x8f) return Head{Head::kMap, type & 0x0fu};
    if (type <= 0x9f) return Head{Head::kArray, type & 0x0fu};
    if (type <= 0xbf) return Head{Head::kStr, type & 0x1fu};
    if (type >= 0xe0) return Head{Head::kNegative, type};
    const auto size = [](uint8_t first, uint8_t at) { return size_t{1} << (at - first); };
    switch (type) {
        case 0xc0: return Head{Head::kNil, 0};
        case 0xc2:
        case 0xc3: return Head{Head::kBoolean, type & 1u};
        case 0xc4:
        case 0xc5:
        case 0xc6: return wide(Head::kBin, bytes, offset, size(0xc4, type));
        case 0xca: return wide(Head::kF32, bytes, offset, 4);
        case 0xcb: return wide(Head::kF64, bytes, offset, 8);
        case 0xcc:
        case 0xcd:
        case 0xce:
        case 0xcf: return wide(Head::kInteger, bytes, offset, size(0xcc, type));
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3: return wide_signed(bytes, offset, size(0xd0, type));
        case 0xd9:
        case 0xda:
        case 0xdb: return wide(Head::kStr, bytes, offset, size(0xd9, type));
        case 0xdc:
        case 0xdd: return wide(Head::kArray, bytes, offset, 2 * size(0xdc, type));
        case 0xde:
        case 0xdf: return wide(Head::kMap, bytes, offset, 2 * size(0xde, type));
        default: return std::nullopt;
    }
}

// Every announced element takes at least one byte, so that a value whose announcements exceed its
// bytes is refused before anything is allocated for it.
std::optional<size_t> value_end(ByteView bytes, size_t offset) {
    if (offset >= bytes.size()) return std::nullopt;
    std::array<uint64_t, kDepthMax> left{};  // elements to come in each open array and map
    uint32_t depth = 0;
    uint64_t elements_left = bytes.size() - offset;
    for (;;) {
        const std::optional<Head> head = read_head(bytes, offset);
        if (!head) return std::nullopt;
        if (head->kind == Head::kArray || head->kind == Head::kMap) {
            const uint64_t elements = head->kind == Head::kMap ? 2 * head->value : head->value;
            if (depth == kDepthMax || elements > elements_left) return std::nullopt;
            elements_left -= elements;
            left[depth++] = elements;
        } else if (head->kind == Head::kStr || head->kind == Head::kBin) {
            if (head->value > bytes.size() - offset) return std::nullopt;
            offset += head->value;
        }
        while (depth > 0 && left[depth - 1] == 0) --depth;
        if (depth == 0) return offset;
        --left[depth - 1];
    }
}

std::optional<Head> Cursor::take(Head::Kind kind) {
    if (problem_->found()) return std::nullopt;
    size_t end = offset_;
    const std::optional<Head> head = read_head(bytes_, end);
    if (!head || head->kind != kind) return std::nullopt;
    offset_ = end;
    return head;
}

uint64_t Cursor::integer(std::string_view name, uint64_t low, uint64_t high) {
    const std::optional<Head> head = take(Head::kInteger);
    if (head && head->value >= low && head->value <= high) return head->value;
    problem_->fail_range(name, low, high);
    return low;
}

uint8_t Cursor::u8(std::string_view name, uint8_t low, uint8_t high) {
    return static_cast<uint8_t>(integer(name, low, high));
}

uint32_t Cursor::u32(std::string_view name, uint32_t low, uint32_t high) {
    return static_cast<uint32_t>(integer(name, low, high));
}

uint64_t Cursor::u64(std::string_view name, uint64_t low, uint64_t high) {
    return integer(name, low, high);
}

float Cursor::f32(std::string_view name) {
    const std::optional<Head> head = take(Head::kF32);
    const float value = head ? std::bit_cast<float>(static_cast<uint32_t>(head->value)) : NAN;
    if (!std::isnan(value)) return value;
    problem_->fail(name, "is not a float 32, or NaN");
    return 0.0f;
}

std::string_view Cursor::bin(std::string_view name, size_t bytes_max) {
    const std::optional<Head> head = take(Head::kBin);
    if (!head || head->value > bytes_max || head->value > bytes_.size() - offset_) {
        problem_->fail(name, "is not a bin, or too long");
        return {};
    }
    const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + offset_;
    offset_ += head->value;
    return {begin, head->value};
}

size_t Cursor::array(std::string_view name, size_t count_min, size_t count_max) {
    const std::optional<Head> head = take(Head::kArray);
    if (head && head->value >= count_min && head->value <= count_max) return head->value;
    problem_->fail(name, "is not an array, or of another length");
    return 0;
}

size_t Cursor::map(std::string_view name, size_t pairs_max) {
    const std::optional<Head> head = take(Head::kMap);
    if (head && head->value <= pairs_max) return head->value;
    problem_->fail(name, "is not a map of a few entries");
    return 0;
}

void Cursor::numbers(std::string_view name, size_t count_max, uint32_t high,
                     std::vector<uint32_t>& values) {
    values.clear();
    for (size_t left = array(name, 0, count_max); left > 0 && !problem_->found(); --left)
        values.push_back(u32(name, 0, high));
}

bool Cursor::take_nil() {
    return take(Head::kNil).has_value();
}

bool Cursor::next_is_bin() const {
    size_t offset = offset_;
    const std::optional<Head> head = read_head(bytes_, offset);
    return !problem_->found() && head && head->kind == Head::kBin;
}

void Cursor::skip(std::string_view name) {
    if (problem_->found()) return;
    const std::optional<size_t> end = value_end(bytes_, offset_);
    if (!end) return problem_->fail(name, "is no value");
    offset_ = *end;
}

}  // namespace chatloop::wire
