// STATUS.
#include "chatloop/wire/status.hpp"

#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "chatloop/wire/control.hpp"
#include "front.hpp"

namespace chatloop::wire {
namespace {

constexpr size_t kInfoEntriesMax = 16;

void write_counters(Writer& writer, const std::vector<Counter>& counters) {
    writer.map(counters.size());
    for (const Counter& counter : counters) writer.str(counter.name).number(counter.value);
}

void write_values(Writer& writer, const HistogramStatus& histogram) {
    writer.map(3).str("bounds").array(histogram.bounds.size());
    for (const double bound : histogram.bounds) writer.f64(bound);
    writer.str("counts").array(histogram.counts.size());
    for (const uint64_t count : histogram.counts) writer.number(count);
    writer.str("sum").f64(histogram.sum);
}

void write_role(Writer& writer, const RoleStatus& work) {
    writer.map(7).str("role").number(work.role).str("frames").number(work.frames);
    writer.str("rows").number(work.rows).str("busy_us").number(work.busy_us);
    writer.str("queue_us").number(work.queue_us).str("work_us").number(work.work_us);
    write_values(writer.str("step_s"), work.step);
}

void write_worker(Writer& writer, const WorkerStatus& worker) {
    writer.map(10).str("name").str(worker.name).str("roles").number(worker.roles);
    writer.str("layers").array(2).number(worker.layer_first).number(worker.layer_end);
    writer.str("state").str(worker.state).str("kernels").str(worker.kernels);
    writer.str("kv_cache_dtype").str(worker.kv_cache_dtype);
    write_counters(writer.str("counters"), worker.counters);
    writer.str("frames_held").number(worker.frames_held);
    writer.str("loop_gap_us").number(worker.loop_gap_us);
    writer.str("work").array(worker.work.size());
    for (const RoleStatus& work : worker.work) write_role(writer, work);
}

void write_route(Writer& writer, const RouteStatus& route) {
    writer.map(5).str("generation").number(route.generation).str("up").boolean(route.up);
    writer.str("hops").array(route.hops.size());
    for (const HopStatus& hop : route.hops)
        writer.map(2).str("worker").str(hop.worker).str("busy_us").number(hop.busy_us);
    writer.str("running").number(route.running);
    write_counters(writer.str("counters"), route.counters);
}

void write_histogram(Writer& writer, const HistogramStatus& histogram) {
    write_values(writer.str(histogram.name), histogram);
}

void write_request(Writer& writer, const RequestStatus& request) {
    writer.map(6).str("id").str(request.id).str("state").str(request.state);
    writer.str("prompt_tokens").number(request.prompt_tokens);
    writer.str("completion_tokens").number(request.completion_tokens);
    writer.str("age_us").number(request.age_us).str("generation").number(request.generation);
}

void write_event(Writer& writer, const EventStatus& event) {
    writer.map(4).str("number").number(event.number).str("age_us").number(event.age_us);
    writer.str("warning").boolean(event.warning).str("text").sentence(event.text);
}

// A map whose keys are names, each once.
template <class Read>
void read_named(Value value, size_t count_max, Read read) {
    Entries entries = value.entries(count_max);
    std::vector<std::string> names;
    for (size_t i = 0; i < entries.count(); ++i) {
        const auto [name, entry] = entries.at(i);
        if (std::find(names.begin(), names.end(), name) != names.end())
            value.fail("has a repeated key");
        names.push_back(name);
        read(name, entry);
    }
}

std::vector<Counter> read_counters(Value value) {
    std::vector<Counter> counters;
    read_named(value, kCountersMax, [&](const std::string& name, Value number) {
        counters.push_back({name, number.u64()});
    });
    return counters;
}

HistogramStatus read_histogram(const std::string& name, Value value) {
    Entries entries = value.entries(kInfoEntriesMax);
    HistogramStatus histogram;
    histogram.name = name;
    Fields bounds = entries.take("bounds").list(0, kBucketsMax);
    for (size_t i = 0; i < bounds.count(); ++i)
        histogram.bounds.push_back(bounds.next("bound").duration());
    Fields counts = entries.take("counts").fields(histogram.bounds.size() + 1);
    for (size_t i = 0; i < counts.count(); ++i)
        histogram.counts.push_back(counts.next("count").u64());
    histogram.sum = entries.take("sum").duration();
    entries.finish();
    return histogram;
}

RoleStatus read_role(Value value) {
    Entries entries = value.entries(kInfoEntriesMax);
    RoleStatus work;
    work.role = entries.take("role").u8(kRoleStage, kRoleSampler);
    work.frames = entries.take("frames").u64();
    work.rows = entries.take("rows").u64();
    work.busy_us = entries.take("busy_us").u64();
    work.queue_us = entries.take("queue_us").u64();
    work.work_us = entries.take("work_us").u64();
    work.step = read_histogram("step_s", entries.take("step_s"));
    entries.finish();
    return work;
}

RequestStatus read_request(Value value) {
    Entries entries = value.entries(kInfoEntriesMax);
    RequestStatus request;
    request.id = entries.take("id").str(kRequestIdBytesMax);
    request.state = entries.take("state").str(kNameBytesMax);
    request.prompt_tokens = entries.take("prompt_tokens").u32();
    request.completion_tokens = entries.take("completion_tokens").u32();
    request.age_us = entries.take("age_us").u64();
    request.generation = entries.take("generation").u64();
    entries.finish();
    return request;
}

EventStatus read_event(Value value) {
    Entries entries = value.entries(kInfoEntriesMax);
    EventStatus event;
    event.number = entries.take("number").u64();
    event.age_us = entries.take("age_us").u64();
    event.warning = entries.take("warning").boolean();
    event.text = entries.take("text").str(kNameBytesMax);
    entries.finish();
    return event;
}

WorkerStatus read_worker(Value value) {
    Entries entries = value.entries(kInfoEntriesMax);
    WorkerStatus worker;
    worker.name = entries.take("name").str(kNameBytesMax);
    worker.roles = entries.take("roles").u8(1, kRoleStage | kRoleSampler);
    Fields layers = entries.take("layers").fields(2);
    worker.layer_first = layers.next("layer_first").u32();
    worker.layer_end = layers.next("layer_end").u32(worker.layer_first);
    worker.state = entries.take("state").str(kNameBytesMax);
    worker.kernels = entries.take("kernels").str(kNameBytesMax);
    worker.kv_cache_dtype = entries.take("kv_cache_dtype").str(kNameBytesMax);
    worker.counters = read_counters(entries.take("counters"));
    worker.frames_held = entries.take("frames_held").u32();
    worker.loop_gap_us = entries.take("loop_gap_us").u32();
    Fields work = entries.take("work").list(0, 2);
    for (size_t i = 0; i < work.count(); ++i) worker.work.push_back(read_role(work.next("work")));
    entries.finish();
    return worker;
}

RouteStatus read_route(Value value) {
    Entries entries = value.entries(kInfoEntriesMax);
    RouteStatus route;
    route.generation = entries.take("generation").u64();
    route.up = entries.take("up").boolean();
    Fields hops = entries.take("hops").list(0, kHopsMax);
    for (size_t i = 0; i < hops.count(); ++i) {
        Entries hop = hops.next("hop").entries(kInfoEntriesMax);
        const std::string worker = hop.take("worker").str(kNameBytesMax);
        route.hops.push_back({worker, hop.take("busy_us").u64()});
        hop.finish();
    }
    route.running = entries.take("running").u32();
    route.counters = read_counters(entries.take("counters"));
    entries.finish();
    return route;
}

}  // namespace

void write_status(Writer& writer, const StatusReply& m) {
    writer.map(16).str("router").str(m.router).str("model").str(m.model);
    writer.str("fingerprint").str(m.fingerprint).str("ready").boolean(m.ready);
    writer.str("no_route").sentence(m.no_route, kNoRouteBytesMax);
    writer.str("workers").array(m.workers.size());
    for (const WorkerStatus& worker : m.workers) write_worker(writer, worker);
    writer.str("routes").array(m.routes.size());
    for (const RouteStatus& route : m.routes) write_route(writer, route);
    writer.str("running").number(m.running).str("waiting").number(m.waiting);
    writer.str("backlog_bytes").number(m.backlog_bytes);
    write_counters(writer.str("counters"), m.counters);
    write_counters(writer.str("errors"), m.errors);
    writer.str("histograms").map(m.histograms.size());
    for (const HistogramStatus& histogram : m.histograms) write_histogram(writer, histogram);
    writer.str("uptime_us").number(m.uptime_us);
    writer.str("requests").array(m.requests.size());
    for (const RequestStatus& request : m.requests) write_request(writer, request);
    writer.str("events").array(m.events.size());
    for (const EventStatus& event : m.events) write_event(writer, event);
}

StatusReply read_status(Value value) {
    StatusReply m;
    Entries info = value.entries(kInfoEntriesMax);
    m.router = info.take("router").str(kNameBytesMax);
    m.model = info.take("model").str(kNameBytesMax);
    m.fingerprint = read_fingerprint(info.take("fingerprint"));
    m.ready = info.take("ready").boolean();
    m.no_route = info.take("no_route").str(kNoRouteBytesMax);
    Fields workers = info.take("workers").list(0, kWorkersMax);
    for (size_t i = 0; i < workers.count(); ++i)
        m.workers.push_back(read_worker(workers.next("worker")));
    Fields routes = info.take("routes").list(0, kWorkersMax);
    for (size_t i = 0; i < routes.count(); ++i)
        m.routes.push_back(read_route(routes.next("route")));
    m.running = info.take("running").u32();
    m.waiting = info.take("waiting").u32();
    m.backlog_bytes = info.take("backlog_bytes").u64();
    m.counters = read_counters(info.take("counters"));
    m.errors = read_counters(info.take("errors"));
    read_named(info.take("histograms"), kCountersMax, [&](const std::string& name, Value entry) {
        m.histograms.push_back(read_histogram(name, entry));
    });
    m.uptime_us = info.take("uptime_us").u64();
    Fields requests = info.take("requests").list(0, kStatusRequestsMax);
    for (size_t i = 0; i < requests.count(); ++i)
        m.requests.push_back(read_request(requests.next("request")));
    Fields events = info.take("events").list(0, kStatusEventsMax);
    for (size_t i = 0; i < events.count(); ++i)
        m.events.push_back(read_event(events.next("event")));
    info.finish();
    return m;
}

}  // namespace chatloop::wire
