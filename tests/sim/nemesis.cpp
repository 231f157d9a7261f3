#include "nemesis.hpp"

#include <algorithm>

#include "fuzz/frames.hpp"

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
void Nemesis::plan(uint32_t faults, TimeUs until) {
    if (random_.one_in(3)) setting_.bus.set_late_events(random_.between(1, 4));
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
    switch (random_.below(15)) {
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
    if (burst_ && random_.one_in(2))
        timeline_.in(random_.below(2'000'000), [this] { burst_(); });
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
    const TimeUs until = timeline_.now() + 6 * kSecondUs;
    for (TimeUs at = timeline_.now() + kSecondUs; at <= until; at += kSecondUs)
        revive(worker, at + random_.below(500'000));
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

// ---- frames ----

void Nemesis::harm_frame() {
    static constexpr std::pair<Harm, const char*> kHarms[] = {
        {Harm::kLose, "a frame is lost"},
        {Harm::kLoseFiller, "the frame that fills a block is lost"},
        {Harm::kLoseResult, "a RESULT is lost"},
        {Harm::kLoseLastResult, "the last RESULT is lost"},
        {Harm::kFlipHeader, "a bit of a header flips"},
        {Harm::kFlipBody, "a bit of a body flips"},
        {Harm::kDouble, "a frame comes twice"},
    };
    const auto& [harm, what] = kHarms[random_.below(std::size(kHarms))];
    setting_.say("nemesis", std::string(what) + ", soon");
    harm_ = harm;
    pass_before_harm_ = random_.below(10);
}

bool Nemesis::matches(const Message& frame) const {
    const Result<wire::FrameHeader> header = wire::decode_header(frame.bytes());
    if (!header) return false;
    const bool is_result = header->type == wire::kFrameResult;
    if (harm_ == Harm::kLoseResult) return is_result;
    if (harm_ == Harm::kLoseLastResult) {
        for (const RouterProcess* process : victims_.routers)
            if (process->alive() && process->frames_in_flight(header->router) == 1)
                return is_result;
        return false;
    }
    if (harm_ != Harm::kLoseFiller) return true;
    if (is_result) return false;
    const auto decoded = wire::decode_frame(*header, frame.bytes());
    const auto* data = std::get_if<wire::DataFrame>(&decoded);
    if (data == nullptr) return false;
    return std::any_of(data->items.begin(), data->items.end(), [](const wire::Item& item) {
        return (item.position + item.rows) / kBlockRows > item.position / kBlockRows;
    });
}

void Nemesis::flip(Message& frame, size_t from, size_t to) {
    const size_t at = from + random_.below(static_cast<uint32_t>(to - from));
    frame.data()[at] ^= static_cast<uint8_t>(1u << random_.below(8));
    if (setting_.mistake != Mistake::kCrc) return;
    wire::Bytes resealed(frame.bytes().begin(), frame.bytes().end());
    fuzz::reseal(resealed);
    frame = Message(std::move(resealed));
}

Fate Nemesis::on_frame(const Passing&, Message& frame) {
    if (harm_ == Harm::kNone || !matches(frame)) return Fate::kPass;
    if (pass_before_harm_ > 0) {
        --pass_before_harm_;
        return Fate::kPass;
    }
    const Harm harm = std::exchange(harm_, Harm::kNone);
    lasts_until(timeline_.now());
    switch (harm) {
        case Harm::kNone: break;
        case Harm::kLose: note("a frame is lost"); return Fate::kLose;
        case Harm::kLoseFiller: note("the frame that fills a block is lost"); return Fate::kLose;
        case Harm::kLoseResult: note("a RESULT is lost"); return Fate::kLose;
        case Harm::kLoseLastResult: note("the last RESULT is lost"); return Fate::kLose;
        case Harm::kDouble: note("a frame comes twice"); return Fate::kDouble;
        case Harm::kFlipHeader:
            note("a bit of a header flips");
            flip(frame, 0, wire::kHeaderBytes);
            break;
        case Harm::kFlipBody:
            note("a bit of a body flips");
            flip(frame, wire::kHeaderBytes, frame.size());
            break;
    }
    return Fate::kPass;
}

}  // namespace chatloop::sim
