// Where the time of one choice of a request went: phases one behind the other, and in each of them
// what the hops of the route took. From these a request's spans are made (docs/observability.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop {

// W3C Trace Context, level 1.
struct TraceContext {
    std::string trace_id;  // 32 hex digits
    std::string caller;    // the caller's span, 16 hex digits, or empty
    bool sampled = false;
};
// Nothing for a text that the recommendation tells to ignore.
std::optional<TraceContext> parse_traceparent(std::string_view text);

enum class PhaseKind : uint8_t { kTokenization, kQueue, kPrefill, kDecode, kReplay };
const char* phase_name(PhaseKind kind);

struct HopTime {
    TimeUs first_at = 0;  // about when it had the first frame
    TimeUs last_at = 0;   // and had done the last one
    uint64_t busy_us = 0;
    uint64_t queue_us = 0;
    uint64_t frames = 0;
};

struct Phase {
    PhaseKind kind = PhaseKind::kQueue;
    TimeUs start_at = 0;
    TimeUs end_at = 0;
    Generation generation = 0;
    uint64_t frames = 0;
    std::vector<HopTime> hops;  // stages, then the sampler
};

class SequenceTrace {
public:
    // Ends the phase that runs and begins another; beyond kTracePhasesMax the last one goes on.
    void begin(PhaseKind kind, TimeUs now, Generation generation = 0);
    void end(TimeUs now);
    std::optional<PhaseKind> running() const;
    // A RESULT of a frame that left at `sent_at` and had rows of the sequence.
    void add_frame(TimeUs sent_at, std::span<const wire::HopTiming> timings, TimeUs now);
    const std::vector<Phase>& phases() const { return phases_; }

private:
    std::vector<Phase> phases_;
    bool running_ = false;
};

// A request as it is traced; `arrived_at` is the zero of the spans' times.
struct RequestTrace {
    std::string request_id;
    TraceContext context;
    TimeUs arrived_at = 0;
    TimeUs ended_at = 0;  // or now
    std::vector<wire::Attribute> attributes;
    struct Choice {
        uint32_t number = 0;
        std::vector<Phase> phases;
    };
    std::vector<Choice> choices;
};

// At most kTraceSpansMax. The first one is the request.
wire::Trace make_trace(const RequestTrace& request);

}  // namespace chatloop
