// Strict reading of msgpack. A Tree is one parsed value; Value, Fields and Entries walk it and note
// the first thing that is wrong in a Problem, after which every read gives zero or nothing. So a
// decoder reads straight on and asks once, at its end.
#pragma once

#include <cstdint>
#include <msgpack.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::wire {

class Problem {
public:
    // What a wrong field and wrong UTF-8 are called here; a client's parameters have codes of their
    // own.
    Problem() = default;
    Problem(ErrorCode field, ErrorCode utf8) : field_(field), utf8_(utf8) {}

    bool found() const { return found_; }
    void set_codes(ErrorCode field, ErrorCode utf8);
    void fail(std::string_view field, std::string_view what);
    void fail_utf8(std::string_view field);
    void fail_range(std::string_view field, uint64_t low, uint64_t high);
    // Only after a problem was found.
    Error error() const;

private:
    ErrorCode field_ = ErrorCode::kMalformed;
    ErrorCode utf8_ = ErrorCode::kMalformed;
    bool found_ = false;
    Error error_;
};

// One msgpack value. Its strings and binaries stay in `bytes`, which must outlive it; the rest
// takes at most a constant times the size of `bytes`, whatever they announce.
class Tree {
public:
    // The value must fill `bytes` exactly.
    static std::optional<Tree> parse(ByteView bytes);

    const msgpack::object& root() const { return handle_.get(); }

private:
    msgpack::object_handle handle_;
};

class Fields;
class Entries;

class Value {
public:
    Value(const msgpack::object* object, std::string_view name, Problem& problem)
        : object_(object), name_(name), problem_(&problem) {}

    std::string_view name() const { return name_; }
    bool is_nil() const;
    bool is_str() const;
    bool is_array() const;

    bool boolean() const;
    uint8_t u8(uint8_t low = 0, uint8_t high = UINT8_MAX) const;
    uint32_t u32(uint32_t low = 0, uint32_t high = UINT32_MAX) const;
    uint64_t u64(uint64_t low = 0, uint64_t high = UINT64_MAX) const;
    float f32() const;          // any but NaN
    double duration() const;    // f64, finite and not negative
    // A number as a client may write it: any integer or float type, its value in [low, high].
    double loose_real(double low, double high) const;
    uint64_t loose_integer(uint64_t low, uint64_t high) const;
    std::string str(size_t bytes_max) const;
    std::string_view bin(size_t bytes_max) const;
    std::vector<uint32_t> numbers(size_t count_max, uint32_t high = UINT32_MAX) const;

    Fields fields(size_t count) const;                      // an array of exactly `count`
    Fields list(size_t count_min, size_t count_max) const;  // its elements bear this name
    Entries entries(size_t count_max) const;                // a map with str keys
    std::vector<std::pair<Value, Value>> pairs(size_t count_max) const;  // a map with any keys

    void fail(std::string_view what) const { problem_->fail(name_, what); }

private:
    bool readable() const { return object_ != nullptr && !problem_->found(); }
    uint64_t integer(uint64_t low, uint64_t high) const;

    const msgpack::object* object_;  // null after a problem
    std::string_view name_;
    Problem* problem_;
};

// The elements of an array, front to back.
class Fields {
public:
    Fields(const msgpack::object* object, std::string_view name, Problem& problem);

    size_t count() const { return count_; }
    Value next(std::string_view name);
    Value next() { return next(name_); }

private:
    const msgpack::object* elements_ = nullptr;
    size_t count_ = 0;
    size_t taken_ = 0;
    std::string_view name_;
    Problem* problem_;
};

// The entries of a map, by key. finish() finds a problem in a key that nobody took, or that came
// twice.
class Entries {
public:
    Entries(const msgpack::object* object, size_t count_max, std::string_view name,
            Problem& problem);

    std::optional<Value> find(std::string_view key);
    Value take(std::string_view key);  // its absence is a problem
    void finish() const;

    // All of them, in order, for a map whose keys are not known before: none after a problem.
    size_t count() const { return count_; }
    std::pair<std::string, Value> at(size_t index) const;

private:
    const msgpack::object_kv* pairs_ = nullptr;
    size_t count_ = 0;
    std::vector<bool> taken_;
    std::string_view name_;
    Problem* problem_;
};

}  // namespace chatloop::wire
