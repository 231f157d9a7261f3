#include "chatloop/router/trace.hpp"

#include <algorithm>

#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

namespace {

bool is_zero(std::string_view text) { return text.find_first_not_of('0') == text.npos; }

// Identities of spans within a trace: distinct for distinct requests of a trace, and never 0.
class SpanIds {
public:
    explicit SpanIds(const RequestTrace& request) : next_(0xcbf29ce484222325u) {
        const auto mix = [this](unsigned char byte) { next_ = (next_ ^ byte) * 0x100000001b3u; };
        for (const char c : request.context.trace_id + request.request_id)  // FNV-1a
            mix(static_cast<unsigned char>(c));
        for (int shift = 0; shift < 64; shift += 8)
            mix(static_cast<unsigned char>(static_cast<uint64_t>(request.arrived_at) >> shift));
    }
    uint64_t next() {
        while (++next_ == 0) {
        }
        return next_;
    }

private:
    uint64_t next_;
};

uint64_t since(TimeUs from, TimeUs at) {
    return static_cast<uint64_t>(std::max<TimeUs>(0, at - from));
}

class Builder {
public:
    explicit Builder(const RequestTrace& request) : request_(request), ids_(request) {
        trace_.trace_id = request.context.trace_id;
        trace_.caller = request.context.caller;
        trace_.sampled = request.context.sampled;
        add("request", 0, request.arrived_at, request.ended_at, request.attributes);
    }

    void add_choice(const RequestTrace::Choice& choice) {
        const uint64_t root = trace_.spans.front().id;
        for (const Phase& phase : choice.phases) {
            std::vector<wire::Attribute> attributes;
            if (request_.choices.size() > 1) attributes.push_back({"choice", choice.number});
            if (phase.generation != 0) attributes.push_back({"generation", phase.generation});
            if (phase.frames != 0) attributes.push_back({"frames", phase.frames});
            const uint64_t parent = add(phase_name(phase.kind), root, phase.start_at,
                                        phase.end_at, std::move(attributes));
            for (size_t hop = 0; hop < phase.hops.size(); ++hop) add_hop(phase, hop, parent);
        }
    }

    wire::Trace take() { return std::move(trace_); }

private:
    void add_hop(const Phase& phase, size_t hop, uint64_t parent) {
        const HopTime& time = phase.hops[hop];
        const bool is_sampler = hop + 1 == phase.hops.size();
        const std::string name =
            is_sampler ? "sampling"
                       : std::string(phase_name(phase.kind)) + " stage " + std::to_string(hop);
        add(name, parent, time.first_at, time.last_at,
            {{"busy_us", time.busy_us}, {"queue_us", time.queue_us}, {"frames", time.frames}});
    }

    uint64_t add(std::string name, uint64_t parent, TimeUs start_at, TimeUs end_at,
                 std::vector<wire::Attribute> attributes) {
        if (trace_.spans.size() >= kTraceSpansMax) return 0;
        const uint64_t id = ids_.next();
        const auto start = static_cast<int64_t>(since(request_.arrived_at, start_at));
        const auto end = static_cast<int64_t>(since(request_.arrived_at, end_at));
        trace_.spans.push_back({std::move(name), id, parent, start, std::max(start, end),
                                std::move(attributes)});
        return id;
    }

    const RequestTrace& request_;
    SpanIds ids_;
    wire::Trace trace_;
};

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view text) {
    constexpr size_t kBytes = 55;  // 00-<32>-<16>-<2>
    if (text.size() < kBytes || text[2] != '-' || text[35] != '-' || text[52] != '-')
        return std::nullopt;
    const std::string_view version = text.substr(0, 2), trace = text.substr(3, 32);
    const std::string_view caller = text.substr(36, 16), flags = text.substr(53, 2);
    // Later versions may go on behind another dash.
    const bool longer = text.size() > kBytes;
    if (longer && (version == "00" || text[kBytes] != '-')) return std::nullopt;
    if (!is_hex(version) || version == "ff" || !is_hex(trace) || !is_hex(caller) ||
        !is_hex(flags) || is_zero(trace) || is_zero(caller))
        return std::nullopt;
    const char low = flags[1];
    const int digit = low <= '9' ? low - '0' : low - 'a' + 10;
    return TraceContext{std::string(trace), std::string(caller), (digit & 1) != 0};
}

const char* phase_name(PhaseKind kind) {
    switch (kind) {
        case PhaseKind::kTokenization: return "tokenization";
        case PhaseKind::kQueue: return "queue";
        case PhaseKind::kPrefill: return "prefill";
        case PhaseKind::kDecode: return "decode";
        case PhaseKind::kReplay: return "replay";
    }
    return "queue";
}

void SequenceTrace::begin(PhaseKind kind, TimeUs now, Generation generation) {
    if (phases_.size() >= kTracePhasesMax) {
        running_ = true;
        return;
    }
    end(now);
    phases_.push_back({kind, now, now, generation, 0, {}});
    running_ = true;
}

void SequenceTrace::end(TimeUs now) {
    if (running_) phases_.back().end_at = now;
    running_ = false;
}

std::optional<PhaseKind> SequenceTrace::running() const {
    if (!running_) return std::nullopt;
    return phases_.back().kind;
}

// The hops' clocks are not ours: a frame is taken to have gone through them without a pause, and
// the time on the wire to be the same before each of them.
void SequenceTrace::add_frame(TimeUs sent_at, std::span<const wire::HopTiming> timings,
                              TimeUs now) {
    if (!running_) return;
    Phase& phase = phases_.back();
    ++phase.frames;
    TimeUs wire = now - sent_at;
    for (const wire::HopTiming& hop : timings) wire -= TimeUs{hop.busy_us} + hop.queue_us;
    wire = std::max<TimeUs>(0, wire) / static_cast<TimeUs>(timings.size() + 1);
    if (phase.hops.size() < timings.size()) phase.hops.resize(timings.size());
    TimeUs at = sent_at;
    for (size_t i = 0; i < timings.size(); ++i) {
        HopTime& hop = phase.hops[i];
        at = std::min(now, at + wire);
        if (hop.frames++ == 0) hop.first_at = std::max(at, phase.start_at);
        at = std::min(now, at + timings[i].queue_us + timings[i].busy_us);
        hop.last_at = at;
        hop.busy_us += timings[i].busy_us;
        hop.queue_us += timings[i].queue_us;
    }
}

wire::Trace make_trace(const RequestTrace& request) {
    Builder builder(request);
    for (const RequestTrace::Choice& choice : request.choices) builder.add_choice(choice);
    return builder.take();
}

}  // namespace chatloop
