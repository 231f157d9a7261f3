// Appends msgpack to a byte vector. Integers take their shortest form; the fixed-width fields of a
// data frame are written by header.cpp and frame.cpp.
#pragma once

#include <cstdint>
#include <msgpack.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::wire {

class Writer {
public:
    explicit Writer(Bytes& out) : sink_{out}, packer_(sink_) {}
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    Writer& array(size_t count);
    Writer& map(size_t pairs);
    Writer& nil();
    Writer& boolean(bool value);
    Writer& number(uint64_t value);
    Writer& signed_number(int64_t value);
    Writer& f32(float value);
    Writer& f64(double value);
    Writer& str(std::string_view text);
    Writer& bin(std::string_view bytes);
    // For sentences, whose length nobody checked before: cut between two characters.
    Writer& sentence(std::string_view text, size_t bytes_max = kNameBytesMax);
    // Announces a bin whose `bytes` the caller appends.
    Writer& bin_header(size_t bytes);
    Writer& little_endian(uint32_t value);  // within such a bin
    Writer& numbers(std::span<const uint32_t> values);

private:
    struct Sink {
        Bytes& out;
        void write(const char* data, size_t size) { out.insert(out.end(), data, data + size); }
    };

    Sink sink_;
    msgpack::packer<Sink> packer_;
};

// Big-endian fixed-width integers as msgpack has them, with their type byte.
void store_u8(uint8_t* at, uint8_t value);
void store_u32(uint8_t* at, uint32_t value);
void store_u64(uint8_t* at, uint64_t value);

inline constexpr size_t kFixedU32Bytes = 5;

}  // namespace chatloop::wire
