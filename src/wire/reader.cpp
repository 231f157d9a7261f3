#include "reader.hpp"

#include <utf8.h>

#include <cmath>
#include <limits>
#include <new>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/core/printable.hpp"
#include "cursor.hpp"

namespace chatloop::wire {
namespace {

using Type = msgpack::type::object_type;

bool is_utf8(std::string_view text) {
    return utf8::is_valid(text.begin(), text.end());
}

bool by_reference(Type, size_t, void*) {
    return true;
}

const char* chars(ByteView bytes) {
    return reinterpret_cast<const char*>(bytes.data());
}

}  // namespace

void Problem::set_codes(ErrorCode field, ErrorCode utf8) {
    field_ = field;
    utf8_ = utf8;
}

void Problem::fail(std::string_view field, std::string_view what) {
    if (found_) return;
    found_ = true;
    error_ = Error{field_, std::string(field) + " " + std::string(what)};
}

void Problem::fail_utf8(std::string_view field) {
    if (found_) return;
    found_ = true;
    error_ = Error{utf8_, std::string(field) + " is not UTF-8"};
}

void Problem::fail_range(std::string_view field, uint64_t low, uint64_t high) {
    if (found_) return;  // before a text is made
    fail(field, "is not an integer from " + std::to_string(low) + " to " + std::to_string(high));
}

Error Problem::error() const {
    CL_ASSERT(found_);
    return error_;
}

std::optional<Tree> Tree::parse(ByteView bytes) {
    if (value_end(bytes, 0) != bytes.size()) return std::nullopt;
    // The survey has bounded the whole; these say the same to msgpack.
    const msgpack::unpack_limit limit(bytes.size(), bytes.size(), bytes.size(), bytes.size(),
                                      /*ext=*/0, kDepthMax);
    try {
        Tree tree;
        bool referenced = false;
        msgpack::unpack(tree.handle_, chars(bytes), bytes.size(), referenced, by_reference, nullptr,
                        limit);
        return tree;
    } catch (const msgpack::unpack_error&) {
        return std::nullopt;
    } catch (const std::bad_alloc&) {
        return std::nullopt;
    }
}

bool Value::is_nil() const {
    return readable() && object_->type == msgpack::type::NIL;
}

bool Value::is_str() const {
    return readable() && object_->type == msgpack::type::STR;
}

bool Value::is_array() const {
    return readable() && object_->type == msgpack::type::ARRAY;
}

bool Value::boolean() const {
    if (!readable()) return false;
    if (object_->type != msgpack::type::BOOLEAN) {
        fail("is not a boolean");
        return false;
    }
    return object_->via.boolean;
}

uint64_t Value::integer(uint64_t low, uint64_t high) const {
    if (!readable()) return low;
    const bool fits = object_->type == msgpack::type::POSITIVE_INTEGER &&
                      object_->via.u64 >= low && object_->via.u64 <= high;
    if (!fits) {
        problem_->fail_range(name_, low, high);
        return low;
    }
    return object_->via.u64;
}

uint8_t Value::u8(uint8_t low, uint8_t high) const {
    return static_cast<uint8_t>(integer(low, high));
}

uint32_t Value::u32(uint32_t low, uint32_t high) const {
    return static_cast<uint32_t>(integer(low, high));
}

uint64_t Value::u64(uint64_t low, uint64_t high) const {
    return integer(low, high);
}

float Value::f32() const {
    if (!readable()) return 0.0f;
    if (object_->type != msgpack::type::FLOAT32 || std::isnan(object_->via.f64)) {
        fail("is not a float 32, or NaN");
        return 0.0f;
    }
    return static_cast<float>(object_->via.f64);  // msgpack widened it, so nothing is rounded here
}

double Value::duration() const {
    if (!readable()) return 0.0;
    const bool fits = object_->type == msgpack::type::FLOAT64 && std::isfinite(object_->via.f64) &&
                      object_->via.f64 >= 0.0;
    if (!fits) {
        fail("is not a float 64 that is finite and not negative");
        return 0.0;
    }
    return object_->via.f64;
}

double Value::loose_real(double low, double high) const {
    if (!readable()) return low;
    double value = std::numeric_limits<double>::quiet_NaN();
    switch (object_->type) {
        case msgpack::type::POSITIVE_INTEGER: value = static_cast<double>(object_->via.u64); break;
        case msgpack::type::NEGATIVE_INTEGER: value = static_cast<double>(object_->via.i64); break;
        case msgpack::type::FLOAT32:
        case msgpack::type::FLOAT64: value = object_->via.f64; break;
        default: break;
    }
    if (!(value >= low && value <= high)) {  // NaN too
        char text[80];
        std::snprintf(text, sizeof text, "is not a number from %g to %g", low, high);
        fail(text);
        return low;
    }
    return value;
}

uint64_t Value::loose_integer(uint64_t low, uint64_t high) const {
    if (!readable()) return low;
    const bool is_float =
        object_->type == msgpack::type::FLOAT32 || object_->type == msgpack::type::FLOAT64;
    if (!is_float) return integer(low, high);
    constexpr double kBeyondU64 = 18446744073709551616.0;  // 2^64
    const double value = object_->via.f64;
    const bool whole = value >= 0.0 && value < kBeyondU64 && std::trunc(value) == value;
    if (!whole || static_cast<uint64_t>(value) < low || static_cast<uint64_t>(value) > high) {
        problem_->fail_range(name_, low, high);
        return low;
    }
    return static_cast<uint64_t>(value);
}

std::string Value::str(size_t bytes_max) const {
    if (!readable()) return {};
    if (object_->type != msgpack::type::STR) {
        fail("is not a string");
        return {};
    }
    const std::string_view text(object_->via.str.ptr, object_->via.str.size);
    if (text.size() > bytes_max) {
        fail("is longer than " + std::to_string(bytes_max) + " bytes");
        return {};
    }
    if (!is_utf8(text)) {
        problem_->fail_utf8(name_);
        return {};
    }
    return std::string(text);
}

std::string_view Value::bin(size_t bytes_max) const {
    if (!readable()) return {};
    if (object_->type != msgpack::type::BIN || object_->via.bin.size > bytes_max) {
        fail("is not a bin of at most " + std::to_string(bytes_max) + " bytes");
        return {};
    }
    return {object_->via.bin.ptr, object_->via.bin.size};
}

std::vector<uint32_t> Value::numbers(size_t count_max, uint32_t high) const {
    Fields elements = list(0, count_max);
    std::vector<uint32_t> values;
    values.reserve(elements.count());
    for (size_t i = 0; i < elements.count(); ++i) values.push_back(elements.next().u32(0, high));
    return values;
}

Fields Value::fields(size_t count) const {
    return list(count, count);
}

Fields Value::list(size_t count_min, size_t count_max) const {
    const Fields none(nullptr, name_, *problem_);
    if (!readable()) return none;
    if (object_->type != msgpack::type::ARRAY) {
        fail("is not an array");
        return none;
    }
    const size_t count = object_->via.array.size;
    if (count < count_min || count > count_max) {
        fail("has " + std::to_string(count) + " elements, not " + std::to_string(count_min) +
             (count_min == count_max ? "" : " to " + std::to_string(count_max)));
        return none;
    }
    return Fields(object_, name_, *problem_);
}

Entries Value::entries(size_t count_max) const {
    if (readable() && object_->type != msgpack::type::MAP) fail("is not a map");
    return Entries(readable() ? object_ : nullptr, count_max, name_, *problem_);
}

std::vector<std::pair<Value, Value>> Value::pairs(size_t count_max) const {
    std::vector<std::pair<Value, Value>> all;
    if (!readable()) return all;
    if (object_->type != msgpack::type::MAP || object_->via.map.size > count_max) {
        fail("is not a map of at most " + std::to_string(count_max) + " entries");
        return all;
    }
    for (const msgpack::object_kv& pair : object_->via.map)
        all.emplace_back(Value(&pair.key, name_, *problem_), Value(&pair.val, name_, *problem_));
    return all;
}

Fields::Fields(const msgpack::object* object, std::string_view name, Problem& problem)
    : name_(name), problem_(&problem) {
    if (object == nullptr) return;
    elements_ = object->via.array.ptr;
    count_ = object->via.array.size;
}

Value Fields::next(std::string_view name) {
    if (problem_->found()) return Value(nullptr, name, *problem_);
    CL_ASSERT(taken_ < count_);  // the count was checked when the array was opened
    return Value(&elements_[taken_++], name, *problem_);
}

Entries::Entries(const msgpack::object* object, size_t count_max, std::string_view name,
                 Problem& problem)
    : name_(name), problem_(&problem) {
    if (object == nullptr) return;
    if (object->via.map.size > count_max) {
        problem.fail(name, "has more than " + std::to_string(count_max) + " entries");
        return;
    }
    pairs_ = object->via.map.ptr;
    count_ = object->via.map.size;
    taken_.resize(count_);
    for (size_t i = 0; i < count_; ++i) {
        if (pairs_[i].key.type == msgpack::type::STR) continue;
        problem.fail(name, "has a key that is not a string");
    }
}

std::optional<Value> Entries::find(std::string_view key) {
    if (problem_->found()) return std::nullopt;
    for (size_t i = 0; i < count_; ++i) {
        const msgpack::object_str& text = pairs_[i].key.via.str;
        if (taken_[i] || std::string_view(text.ptr, text.size) != key) continue;
        taken_[i] = true;
        return Value(&pairs_[i].val, key, *problem_);
    }
    return std::nullopt;
}

Value Entries::take(std::string_view key) {
    const std::optional<Value> value = find(key);
    if (!value) problem_->fail(key, "is missing in " + std::string(name_));
    return value.value_or(Value(nullptr, key, *problem_));
}

std::pair<std::string, Value> Entries::at(size_t index) const {
    CL_ASSERT(index < count_);
    if (problem_->found()) return {{}, Value(nullptr, name_, *problem_)};
    Value key(&pairs_[index].key, name_, *problem_);
    return {key.str(kNameBytesMax), Value(&pairs_[index].val, name_, *problem_)};
}

void Entries::finish() const {
    if (problem_->found()) return;
    for (size_t i = 0; i < count_; ++i) {
        if (taken_[i]) continue;
        const msgpack::object_str& text = pairs_[i].key.via.str;
        problem_->fail(name_, "has the unknown or repeated key '" +
                                  printable_ascii({text.ptr, text.size}) + "'");
        return;
    }
}

}  // namespace chatloop::wire
