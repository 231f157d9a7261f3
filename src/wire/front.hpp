// What the two directions of the client front share.
#pragma once

#include <string_view>

#include "chatloop/wire/codec.hpp"
#include "reader.hpp"
#include "writer.hpp"

namespace chatloop::wire {

enum class FrontType : uint8_t {
    kSubmit = 1,
    kCancel = 2,
    kResume = 3,
    kPing = 4,
    kStatusQuery = 5,
    kTraceQuery = 6,
    kAccepted = 65,
    kPiece = 66,
    kPromptPiece = 67,
    kDone = 68,
    kFailure = 69,
    kPong = 70,
    kStatusReply = 71,
    kChoiceDone = 72,
    kTraceReply = 73,
};

inline constexpr size_t kFrontPrefix = 2;  // version and type
inline constexpr size_t kFrontElementsMax = kFrontPrefix + 7;

// Begins a message of `body_elements` behind its type.
Writer& begin_front(Writer& writer, FrontType type, size_t body_elements);

void write_parameters(Writer& writer, const Parameters& parameters);
Parameters read_parameters(Value value, Problem& problem);

void write_progress(Writer& writer, const Progress& progress);
Progress read_progress(Value value, uint32_t choices);

void write_status(Writer& writer, const StatusReply& status);
StatusReply read_status(Value value);

void write_trace(Writer& writer, const Trace& trace);
Trace read_trace(Value value);

// 16 hex digits.
std::string read_fingerprint(Value value);

}  // namespace chatloop::wire
