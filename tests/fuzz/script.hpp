// An input as a script of what happens to an actor: one byte says what, then what it takes. And a
// doctest whose failed assertion, outside of any test case, ends the process.
#pragma once

#include <algorithm>
#include <span>

#include "target.hpp"

namespace chatloop::fuzz {

class Script {
public:
    explicit Script(std::span<const uint8_t> input) : left_(input) {}

    bool done() const { return left_.empty(); }
    uint8_t byte() {
        if (left_.empty()) return 0;
        const uint8_t value = left_[0];
        left_ = left_.subspan(1);
        return value;
    }
    // Two bytes of length, then as many bytes; fewer at the end.
    Bytes block() {
        const size_t high = byte();
        const size_t wanted = high << 8 | byte();
        const size_t count = std::min(wanted, left_.size());
        const Bytes bytes(left_.begin(), left_.begin() + static_cast<ptrdiff_t>(count));
        left_ = left_.subspan(count);
        return bytes;
    }

private:
    std::span<const uint8_t> left_;
};

class ScriptWriter {
public:
    ScriptWriter& byte(uint8_t value) {
        bytes.push_back(value);
        return *this;
    }
    ScriptWriter& block(std::span<const uint8_t> content) {
        byte(static_cast<uint8_t>(content.size() >> 8)).byte(static_cast<uint8_t>(content.size()));
        bytes.insert(bytes.end(), content.begin(), content.end());
        return *this;
    }
    Bytes bytes;
};

constexpr int kStepsMax = 300;  // of a script

}  // namespace chatloop::fuzz
