#include "nemesis.hpp"

#include <algorithm>

namespace chatloop::sim {

namespace {

constexpr uint8_t kControlWire = static_cast<uint8_t>(Wire::kControl);
constexpr uint8_t kDataWire = static_cast<uint8_t>(Wire::kData);
constexpr uint8_t kFrontWire = static_cast<uint8_t>(Wire::kFront);

}  // namespace

Nemesis::Nemesis(Setting& setting, Victims victims)
    : setting_(setting),
      random_(setting.random),
      timeline_(setting.timeline),
      victims_(std::move(victims)) {
    setting_.bus.set_harm([this](const Passing& passing, Message& frame) {
        return on_frame(passing, frame);
    });
}

// One in three faults comes right behind another.
void Nemesis::plan(uint32_t faults, TimeUs until, bool only_stops) {
    if (random_.one_in(3)) setting_.bus.set_late_events(random_.between(1, 4));
    only_stops_ = only_stops;
    TimeUs at = timeline_.now();
    for (uint32_t i = 0; i < faults; ++i) {
        const bool follows = i > 0 && random_.one_in(3);
        const auto span = static_cast<uint32_t>(until - timeline_.now());
        at = follows ? at + random_.below(300'000) : timeline_.now() + random_.below(span);
        if (follows) setting_.coverage.note("fault: two in a row");
        lasts_until(at);
        timeline_.at(at, [this] { strike(); });
    }
}

void Nemesis::note(const std::string& what) {
    setting_.say("nemesis", what);
    setting_.coverage.note("fault: " + what.substr(0, what.find(':')));
}

TimeUs Nemesis::draw_duration(uint32_t most_ms) {
    const uint32_t scale = random_.below(4);  // short ones as often as long ones
    return TimeUs{1 + random_.below(most_ms >> (2 * scale))} * kMillisecondUs;
}

WorkerProcess& Nemesis::any_worker() {
    return *victims_.workers[random_.below(static_cast<uint32_t>(victims_.workers.size()))];
}

RouterProcess& Nemesis::any_router() {
    return *victims_.routers[random_.below(static_cast<uint32_t>(victims_.routers.size()))];
}

void Nemesis::strike() {
    if (only_stops_) return stop(any_router(), 4000);
    switch (random_.below(18)) {
        case 0:
        case 1:
        case 2: return kill_worker();
        case 3: return stop(any_worker(), 6000);
        case 4: return random_.one_in(2) ? kill_router() : stop(any_router(), 4000);
        case 5: return isolate();
        case 6: return cut_one_way();
        case 7: return cut_edge();
        case 8: return cut_control();
        case 9: return random_.one_in(2) ? slow_network() : slow_compute();
        case 10: return reset_connection();
        case 11:
        case 12: return harm_frame();
        case 13: return trouble_client();
        case 14: return drain_worker();
        case 15: return lose_tables();
        case 16: return cut_edge_for_good();
        case 17: return start_twin();
    }
}

// ---- processes ----

void Nemesis::revive(Process& process, TimeUs at) {
    lasts_until(at);
    timeline_.at(at, [this, &process] {
        if (process.alive()) return;
        process.start();
    });
}

void Nemesis::kill(WorkerProcess& worker) {
    if (!worker.alive()) return;
    const WorkerPlace& place = worker.place();
    note(std::string(place.is_stage ? "a stage" : "a sampler") + " is killed: " + worker.name());
    worker.crash();
    ++workers_killed_;
    revive(worker, timeline_.now() + 50 * kMillisecondUs + draw_duration(3000));
    if (burst_ && random_.one_in(2)) {
        const TimeUs at = timeline_.now() + random_.below(2'000'000);
        lasts_until(at);  // its request has to end like the others
        timeline_.at(at, [this] { burst_(); });
    }
}

void Nemesis::kill_worker() { kill(any_worker()); }

void Nemesis::kill_router() {
    RouterProcess& router = any_router();
    if (!router.alive()) return;
    note("a router is killed: " + router.name());
    router.crash();
    revive(router, timeline_.now() + 50 * kMillisecondUs + draw_duration(3000));
}

void Nemesis::stop(Process& process, uint32_t most_ms) {
    if (!process.alive() || process.paused()) return;
    const TimeUs us = draw_duration(most_ms);
    const bool is_router = std::find(victims_.routers.begin(), victims_.routers.end(), &process) !=
                           victims_.routers.end();
    note(std::string(is_router ? "a router" : "a worker") + " is stopped: " + process.name() +
         " for " + std::to_string(us / 1000) + " ms");
    process.pause();
    lasts_until(timeline_.now() + us);
    timeline_.in(us, [this, &process] {
        setting_.say("nemesis", process.name() + " continues");
        process.resume();
    });
}

void Nemesis::drain_worker() {
    WorkerProcess& worker = any_worker();
    if (!worker.alive() || worker.paused()) return;
    note("a worker drains: " + worker.name());
    worker.drain();
    ++workers_killed_;  // its farewell may be lost
    revive_when_ended(worker, worker.boot());
}

// A worker that is stopped while it drains takes its time.
void Nemesis::revive_when_ended(WorkerProcess& worker, uint32_t boot) {
    const TimeUs at = timeline_.now() + kSecondUs + random_.below(500'000);
    lasts_until(at);
    timeline_.at(at, [this, &worker, boot] {
        if (worker.boot() != boot) return;
        if (worker.alive()) return revive_when_ended(worker, boot);
        worker.start();
    });
}

// Its memory is not what the router thinks that it is, and nobody has said so.
void Nemesis::lose_tables() {
    WorkerProcess& worker = any_worker();
    if (!worker.alive() || !worker.place().is_stage) return;
    note("a stage loses its tables: " + worker.name());
    worker.lose_tables();
}

// A process is stopped and another one takes its place; then it goes on.
void Nemesis::start_twin() {
    WorkerProcess& worker = any_worker();
    WorkerProcess* const twin = worker.twin();
    if (twin == nullptr || !worker.alive() || worker.paused() || twin->alive()) return;
    note("a worker has a twin: " + worker.name());
    stop(worker, 6000);
    ++workers_killed_;  // one of them is taken for dead
    timeline_.in(50 * kMillisecondUs + draw_duration(3000), [twin] {
        if (!twin->alive()) twin->start();
    });
    lasts_until(timeline_.now() + 4 * kSecondUs);
}

void Nemesis::trouble_client() {
    ClientProcess& client =
        *victims_.clients[random_.below(static_cast<uint32_t>(victims_.clients.size()))];
    if (!client.alive()) return;
    if (random_.one_in(3)) {
        note("a client dies: " + client.name());
        return client.die();
    }
    if (random_.one_in(2)) {
        const bool quiet = random_.one_in(2);
        note(std::string(quiet ? "a front connection is reset unseen: "
                               : "a front connection is reset: ") + client.name());
        return setting_.bus.reset(client, any_router(), kFrontWire, quiet);
    }
    note("a client is cut off: " + client.name());
    const TimeUs us = draw_duration(5000);
    RouterProcess& router = any_router();
    block_for(client, router, kFrontWire, us);
    block_for(router, client, kFrontWire, us);
}

void Nemesis::slow_compute() {
    WorkerProcess& worker = any_worker();
    note("a worker is slow: " + worker.name());
    worker.set_slowness(random_.between(10, 100));
    const TimeUs us = draw_duration(3000);
    lasts_until(timeline_.now() + us);
    timeline_.in(us, [&worker] { worker.set_slowness(1); });
}

// ---- the network ----

void Nemesis::block_for(Process& from, Process& to, uint8_t wires, TimeUs how_long) {
    if (&from == &to) return;
    const uint64_t block = setting_.bus.block(from, to, wires);
    lasts_until(timeline_.now() + how_long + kSecondUs);
    timeline_.in(how_long, [this, block] { setting_.bus.unblock(block); });
}

void Nemesis::isolate() {
    WorkerProcess& worker = any_worker();
    const TimeUs us = draw_duration(8000);
    note("a worker is cut off: " + worker.name() + " for " + std::to_string(us / 1000) + " ms");
    std::vector<Process*> others(victims_.routers.begin(), victims_.routers.end());
    others.insert(others.end(), victims_.workers.begin(), victims_.workers.end());
    for (Process* other : others) {
        block_for(worker, *other, kAllWires, us);
        block_for(*other, worker, kAllWires, us);
    }
}

void Nemesis::cut_one_way() {
    WorkerProcess& worker = any_worker();
    std::vector<Process*> others(victims_.routers.begin(), victims_.routers.end());
    others.insert(others.end(), victims_.workers.begin(), victims_.workers.end());
    Process& other = *others[random_.below(static_cast<uint32_t>(others.size()))];
    const TimeUs us = draw_duration(8000);
    const bool out = random_.one_in(2);
    note("a path is cut one way: " + (out ? worker.name() + " to " + other.name()
                                          : other.name() + " to " + worker.name()));
    block_for(out ? static_cast<Process&>(worker) : other,
              out ? other : static_cast<Process&>(worker), kAllWires, us);
}

void Nemesis::cut_edge() {
    WorkerProcess& a = any_worker();
    WorkerProcess& b = any_worker();
    const TimeUs us = draw_duration(8000);
    note("an edge is cut: " + a.name() + " and " + b.name());
    block_for(a, b, kDataWire, us);
    block_for(b, a, kDataWire, us);
}

// Of two workers, or of a router and the first stage or the sampler. Around it there is a way: an
// end that is a worker has a replica.
void Nemesis::cut_edge_for_good() {
    if (has_bad_edge_) return;
    WorkerProcess& a = any_worker();
    WorkerProcess& b = any_worker();
    RouterProcess& router = any_router();
    const auto has_replica = [&](const WorkerProcess& of) {
        return std::any_of(victims_.workers.begin(), victims_.workers.end(), [&](auto* other) {
            return other->place().member != of.place().member &&
                   other->place().role() == of.place().role();
        });
    };
    const uint32_t next = a.place().stage + 1;
    const bool is_next = b.place().is_stage ? b.place().stage == next : setting_.stages == next;
    const bool is_edge = a.place().is_stage && is_next && (has_replica(a) || has_replica(b));
    const bool is_end = (b.place().is_stage && b.place().stage == 0) || b.place().is_sampler;
    const bool is_of_router = is_end && has_replica(b) && !(is_edge && random_.one_in(2));
    if (!is_edge && !is_of_router) return;
    has_bad_edge_ = true;
    Process& from = is_of_router ? static_cast<Process&>(router) : a;
    const char* what = is_of_router        ? "an edge of a router is cut for good: "
                       : b.place().is_stage ? "an edge of stages is cut for good: "
                                            : "an edge of a sampler is cut for good: ";
    note(what + from.name() + " and " + b.name());
    setting_.bus.block(from, b, kDataWire);
    setting_.bus.block(b, from, kDataWire);
}

// Frames go on while the router hears nothing: a false suspicion.
void Nemesis::cut_control() {
    WorkerProcess& worker = any_worker();
    RouterProcess& router = any_router();
    const TimeUs us = draw_duration(6000);
    note("control is cut, data is not: " + worker.name() + " for " + std::to_string(us / 1000) +
         " ms");
    block_for(worker, router, kControlWire, us);
    if (random_.one_in(2)) block_for(router, worker, kControlWire, us);
}

void Nemesis::slow_network() {
    WorkerProcess& worker = any_worker();
    Process& other = random_.one_in(2) ? static_cast<Process&>(any_router()) : any_worker();
    note("a path is slow: " + worker.name() + " and " + other.name());
    const TimeUs extra = 1 + draw_duration(300);
    const TimeUs us = draw_duration(4000);
    lasts_until(timeline_.now() + us);
    setting_.bus.slow(worker, other, extra);
    setting_.bus.slow(other, worker, extra);
    timeline_.in(us, [this, &worker, &other] {
        setting_.bus.slow(worker, other, 0);
        setting_.bus.slow(other, worker, 0);
    });
}

void Nemesis::reset_connection() {
    WorkerProcess& worker = any_worker();
    Process& other = random_.one_in(3) ? static_cast<Process&>(any_router()) : any_worker();
    const bool quiet = random_.one_in(3);
    note(std::string(quiet ? "a connection is reset unseen: " : "a connection is reset: ") +
         worker.name() + " and " + other.name());
    setting_.bus.reset(worker, other, random_.one_in(2) ? kAllWires : kDataWire, quiet);
}

}  // namespace chatloop::sim
