// Traces: who may give one, and that a request's phases are its whole time.
#include "chatloop/router/trace.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "router_harness.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

const std::string kCaller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

std::optional<wire::Trace> trace_of(RouterHarness& h, const std::string& request_id) {
    h.say(wire::TraceQuery{request_id}, "observer");
    return h.heard<wire::TraceReply>("observer").back().trace;
}

std::vector<std::string> phases_of(const wire::Trace& trace) {
    std::vector<std::string> names;
    for (const wire::Span& span : trace.spans)
        if (span.parent == trace.spans.front().id) names.push_back(span.name);
    return names;
}

uint64_t number(const wire::Span& span, const std::string& name) {
    for (const wire::Attribute& attribute : span.attributes)
        if (attribute.name == name) return std::get<uint64_t>(attribute.value);
    FAIL("no attribute " << name);
    return 0;
}

}  // namespace

TEST_CASE("a traceparent is read as the recommendation says, else there is none") {
    const auto context = parse_traceparent(kCaller);
    REQUIRE(context.has_value());
    CHECK(context->trace_id == "0af7651916cd43dd8448eb211c80319c");
    CHECK(context->caller == "b7ad6b7169203331");
    CHECK(context->sampled);
    std::string quiet = kCaller;
    quiet.back() = '2';
    CHECK_FALSE(parse_traceparent(quiet)->sampled);
    std::string later = kCaller + "-what-may-come";
    CHECK_FALSE(parse_traceparent(later).has_value());  // not in version 00
    later[1] = '1';
    CHECK(parse_traceparent(later).has_value());
    for (size_t i = 0; i < kCaller.size(); ++i) {
        CAPTURE(i);
        std::string bad = kCaller;
        bad[i] = 'X';
        CHECK_FALSE(parse_traceparent(bad).has_value());
        CHECK_FALSE(parse_traceparent(kCaller.substr(0, i)).has_value());
    }
    CHECK_FALSE(parse_traceparent("ff" + kCaller.substr(2)).has_value());
    CHECK_FALSE(parse_traceparent("00-" + std::string(32, '0') + kCaller.substr(35)).has_value());
    const std::string no_caller = kCaller.substr(0, 36) + std::string(16, '0') + "-01";
    CHECK_FALSE(parse_traceparent(no_caller).has_value());
}

TEST_CASE("the phases of a request add up to its time") {
    UpRouter h;
    wire::Parameters parameters = RouterHarness::ask(3, 3);
    parameters.traceparent = kCaller;
    h.say(wire::Submit{"r", parameters});
    h.now += 700;
    while (h.router->has_work()) h.router->run_unit(h.now);
    for (int i = 0; i < 3; ++i) {
        wire::ResultFrame result = h.result_of(h.answered++);
        result.timings = {{100, 4000}, {50, 1000}};
        h.now += 6000;
        h.answer(result);
    }
    const std::optional<wire::Trace> trace = trace_of(h, "r");
    REQUIRE(trace.has_value());
    CHECK(trace->trace_id == "0af7651916cd43dd8448eb211c80319c");
    CHECK(trace->caller == "b7ad6b7169203331");
    CHECK(trace->sampled);
    CHECK(phases_of(*trace) == std::vector<std::string>{"tokenization", "queue", "prefill",
                                                        "decode"});
    const wire::Span& root = trace->spans.front();
    CHECK(root.name == "request");
    CHECK(root.start_us == 0);
    CHECK(root.end_us == 18'700);
    CHECK(number(root, "prompt_tokens") == 3);
    CHECK(number(root, "completion_tokens") == 3);
    int64_t sum = 0, end = 0;
    for (const wire::Span& span : trace->spans) {
        if (span.parent != root.id) continue;
        CHECK(span.start_us == end);  // one behind the other
        end = span.end_us;
        sum += span.end_us - span.start_us;
    }
    CHECK(sum == root.end_us);
    const auto decode = std::find_if(
        trace->spans.begin(), trace->spans.end(),
        [](const wire::Span& s) { return s.name == "decode stage 0"; });
    REQUIRE(decode != trace->spans.end());
    CHECK(number(*decode, "frames") == 2);
    CHECK(number(*decode, "busy_us") == 8000);
    CHECK(number(*decode, "queue_us") == 200);
    CHECK(decode->start_us >= 6700);
    CHECK(decode->end_us <= root.end_us);
    CHECK(std::count_if(trace->spans.begin(), trace->spans.end(), [](const wire::Span& s) {
              return s.name == "sampling";
          }) == 2);
}

TEST_CASE("a request that runs can be asked for, one that is not known is nothing") {
    UpRouter h;
    h.submit("r", 3, 9);
    const std::optional<wire::Trace> running = trace_of(h, "r");
    REQUIRE(running.has_value());
    CHECK(phases_of(*running).back() == "prefill");
    CHECK(running->trace_id.size() == 32);
    CHECK(running->caller.empty());
    CHECK_FALSE(trace_of(h, "another").has_value());
}

TEST_CASE("requests of one trace have spans of their own") {
    RequestTrace first;
    first.request_id = "a";
    first.context.trace_id = std::string(32, '1');
    first.choices = {{0, {{PhaseKind::kQueue, 0, 5, 0, 0, {}}}}};
    RequestTrace second = first;
    second.request_id = "b";
    CHECK(make_trace(first).spans[0].id != make_trace(second).spans[0].id);
    CHECK(make_trace(first) == make_trace(first));
}

TEST_CASE("a part of the requests is exported, and those whose caller says so") {
    const auto run = [](double ratio, const std::string& caller) {
        RouterHarness h;
        h.config.trace_ratio = ratio;
        h.remake();
        h.bring_up();
        std::vector<std::string> sampled;
        h.router->set_trace_sink(
            [&](const wire::Trace& trace, TimeUs) { sampled.push_back(trace.trace_id); });
        for (int i = 0; i < 200; ++i) {
            wire::Parameters parameters = RouterHarness::ask(1, 1);
            parameters.traceparent = caller;
            h.say(wire::Submit{std::to_string(i), parameters});
            h.say(wire::Cancel{std::to_string(i)});
        }
        return sampled.size();
    };
    CHECK(run(0.0, "") == 0);
    CHECK(run(1.0, "") == 200);
    const size_t tenth = run(0.1, "");
    CHECK(tenth > 5);
    CHECK(tenth < 50);
    CHECK(run(0.0, kCaller) == 200);
    CHECK(run(1.0, kCaller.substr(0, 53) + "00") == 0);
    CHECK(run(1.0, "what is this") == 200);
}

TEST_CASE("phases and spans are bounded") {
    SequenceTrace trace;
    for (TimeUs t = 0; t < 1000; ++t) trace.begin(PhaseKind::kQueue, t);
    trace.end(1000);
    CHECK(trace.phases().size() == kTracePhasesMax);
    CHECK(trace.phases().back().end_at == 1000);  // the last one takes the rest
    RequestTrace request;
    request.ended_at = 1000;
    for (uint32_t choice = 0; choice < kChoicesMax; ++choice) {
        request.choices.push_back({choice, trace.phases()});
        for (Phase& phase : request.choices.back().phases) phase.hops.resize(kHopsMax);
    }
    CHECK(make_trace(request).spans.size() == kTraceSpansMax);
}
