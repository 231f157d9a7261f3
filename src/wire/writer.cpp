#include "writer.hpp"

#include <bit>

#include "chatloop/core/assert.hpp"

namespace chatloop::wire {
namespace {

uint32_t size32(size_t size) {
    CL_ASSERT(size <= UINT32_MAX);
    return static_cast<uint32_t>(size);
}

bool is_continuation(char c) {
    return (static_cast<uint8_t>(c) & 0xc0u) == 0x80u;
}

template <class T>
void store_big_endian(uint8_t* at, uint8_t type_byte, T value) {
    *at++ = type_byte;
    for (int shift = 8 * (sizeof(T) - 1); shift >= 0; shift -= 8) {
        *at++ = static_cast<uint8_t>(value >> shift);
    }
}

}  // namespace

Writer& Writer::array(size_t count) {
    packer_.pack_array(size32(count));
    return *this;
}

Writer& Writer::map(size_t pairs) {
    packer_.pack_map(size32(pairs));
    return *this;
}

Writer& Writer::nil() {
    packer_.pack_nil();
    return *this;
}

Writer& Writer::boolean(bool value) {
    value ? packer_.pack_true() : packer_.pack_false();
    return *this;
}

Writer& Writer::number(uint64_t value) {
    packer_.pack_uint64(value);
    return *this;
}

Writer& Writer::signed_number(int64_t value) {
    packer_.pack_int64(value);
    return *this;
}

// msgpack-c writes a float of integral value as an integer, which is another type here (and -0 is
// lost).
Writer& Writer::f32(float value) {
    uint8_t bytes[1 + sizeof value];
    store_big_endian(bytes, 0xca, std::bit_cast<uint32_t>(value));
    sink_.out.insert(sink_.out.end(), bytes, bytes + sizeof bytes);
    return *this;
}

Writer& Writer::f64(double value) {
    uint8_t bytes[1 + sizeof value];
    store_big_endian(bytes, 0xcb, std::bit_cast<uint64_t>(value));
    sink_.out.insert(sink_.out.end(), bytes, bytes + sizeof bytes);
    return *this;
}

Writer& Writer::str(std::string_view text) {
    packer_.pack_str(size32(text.size()));
    packer_.pack_str_body(text.data(), size32(text.size()));
    return *this;
}

Writer& Writer::bin(std::string_view bytes) {
    bin_header(bytes.size());
    packer_.pack_bin_body(bytes.data(), size32(bytes.size()));
    return *this;
}

Writer& Writer::sentence(std::string_view text, size_t bytes_max) {
    if (text.size() <= bytes_max) return str(text);
    size_t end = bytes_max;
    while (end > 0 && is_continuation(text[end])) --end;
    return str(text.substr(0, end));
}

Writer& Writer::bin_header(size_t bytes) {
    packer_.pack_bin(size32(bytes));
    return *this;
}

Writer& Writer::little_endian(uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8)
        sink_.out.push_back(static_cast<uint8_t>(value >> shift));
    return *this;
}

Writer& Writer::numbers(std::span<const uint32_t> values) {
    array(values.size());
    for (uint32_t value : values) number(value);
    return *this;
}

void store_u8(uint8_t* at, uint8_t value) {
    store_big_endian(at, 0xcc, value);
}

void store_u32(uint8_t* at, uint32_t value) {
    store_big_endian(at, 0xce, value);
}

void store_u64(uint8_t* at, uint64_t value) {
    store_big_endian(at, 0xcf, value);
}

}  // namespace chatloop::wire
