// What a request spent its time on: the spans of its trace (docs/observability.md).
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace chatloop::wire {

struct Attribute {
    std::string name;
    std::variant<uint64_t, std::string> value;
    bool operator==(const Attribute&) const = default;
};

struct Span {
    std::string name;
    uint64_t id = 0;
    uint64_t parent = 0;   // another span of the trace; 0: the caller's
    int64_t start_us = 0;  // since the request arrived
    int64_t end_us = 0;
    std::vector<Attribute> attributes;
    bool operator==(const Span&) const = default;
};

struct Trace {
    std::string trace_id;  // 32 hex digits
    std::string caller;    // the caller's span, 16 hex digits, or empty
    bool sampled = false;  // to be exported
    std::vector<Span> spans;  // the first one is the request
    bool operator==(const Trace&) const = default;
};

}  // namespace chatloop::wire
