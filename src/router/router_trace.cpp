// Observation: what the parts of the router note of requests, frames and workers on their way, and
// the traces that come of it. Nothing here changes what is computed.
#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

WorkerTimes* Router::times_of(const std::string& worker, uint8_t role) {
    const std::pair<std::string, uint8_t> key{worker, role};
    if (metrics_.workers.size() >= 2 * kWorkersMax && !metrics_.workers.contains(key))
        return nullptr;
    return &metrics_.workers[key];
}

void Router::note_frame(const InFlight& sent, std::span<const wire::HopTiming> timings,
                        TimeUs now) {
    for (const InFlightItem& item : sent.items) {
        const auto admitted = by_admission_.find(item.admission);
        if (admitted == by_admission_.end()) continue;
        sequences_.at(admitted->second)->trace.add_frame(sent.sent_at, timings, now);
    }
}

void Router::note_event(bool warning, std::string text) {
    if (events_.size() >= kStatusEventsMax) events_.pop_front();
    events_.push_back({++last_event_, ticked_at_, warning, std::move(text)});
}

// Once a request, when nothing of it runs any more.
void Router::note_ended(Request& request, const std::string& reason, TimeUs at) {
    ++metrics_.ended[reason];
    metrics_.request_s.add(static_cast<double>(std::max<TimeUs>(0, at - request.arrived_at)) /
                           kSecondUs);
    RequestTrace ended = trace_of(request, at);
    ended.attributes.push_back({"finish_reason", reason});
    ended.attributes.push_back({"completion_tokens", uint64_t{request.committed}});
    wire::Trace trace = make_trace(ended);
    if (trace.sampled && trace_sink_) trace_sink_(trace, request.arrived_at);
    if (traces_.size() >= kTracesKept) traces_.pop_front();
    traces_.push_back({request.id, std::move(trace)});
}

// Of the choices that have ended and of those that run.
RequestTrace Router::trace_of(const Request& request, TimeUs at) const {
    RequestTrace trace;
    trace.request_id = request.id;
    trace.context = request.trace;
    trace.arrived_at = request.arrived_at;
    trace.choices = request.traced;
    uint32_t prompt_count = request.prompt_count;
    for (const SequenceId id : request.running) {
        const Sequence& sequence = *sequences_.at(id);
        SequenceTrace running = sequence.trace;
        running.end(at);
        trace.arrived_at = sequence.arrived_at;
        prompt_count = sequence.prompt_count;
        trace.choices.push_back({sequence.choice, running.phases()});
    }
    std::sort(trace.choices.begin(), trace.choices.end(),
              [](const auto& a, const auto& b) { return a.number < b.number; });
    trace.ended_at = std::max(at, trace.arrived_at);
    trace.attributes = {{"request_id", request.id},
                        {"model", config_.model_name},
                        {"prompt_tokens", uint64_t{prompt_count}}};
    return trace;
}

void Router::send_trace(const std::string& client, const std::string& request_id) {
    wire::TraceReply reply{request_id, std::nullopt};
    for (const auto& [name, entry] : clients_) {
        const auto running = entry.requests.find(request_id);
        if (running == entry.requests.end()) continue;
        reply.trace = make_trace(trace_of(*running->second, ticked_at_));
        break;
    }
    const auto ended = std::find_if(traces_.rbegin(), traces_.rend(), [&](const EndedTrace& t) {
        return t.request_id == request_id;
    });
    if (!reply.trace && ended != traces_.rend()) reply.trace = ended->trace;
    send(client, reply);
}

}  // namespace chatloop
