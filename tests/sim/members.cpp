#include "members.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "chatloop/core/hex.hpp"

namespace chatloop::sim {

namespace {

constexpr TimeUs kRestartUs = kSecondUs;  // a supervisor's

}  // namespace

void Setting::say(const std::string& who, const std::string& text) const {
    if (!trace) return;
    std::printf("%10.6f %-10s %s\n", static_cast<double>(timeline.now()) / 1e6, who.c_str(),
                text.c_str());
}

std::string result_endpoint(const std::string& router) { return "result:" + router; }
std::string front_endpoint(const std::string& router) { return "front:" + router; }

// ---- the router ----

RouterProcess::RouterProcess(Setting& setting, const std::string& name)
    : Process(setting.bus, setting.timeline, setting.random, name),
      setting_(setting),
      text_(setting.mistake) {
    bus_.bind(*this, name);
    bus_.bind(*this, result_endpoint(name));
    bus_.bind(*this, front_endpoint(name));
}

uint32_t RouterProcess::frames_in_flight(Incarnation incarnation) const {
    if (incarnation != incarnation_) return 0;
    uint32_t frames = 0;
    for (const auto& [worker, peer] : router_->cluster().workers())
        frames = std::max(frames, peer.credit.frames_out());
    return frames;
}

void RouterProcess::power_on() {
    RouterConfig config = setting_.router;
    incarnation_ = random_.next() | 1;
    config.cluster.name = name();
    config.cluster.incarnation = incarnation_;
    config.cluster.result_endpoint = result_endpoint(name());
    config.seed = random_.next();
    workers_gone_.clear();
    clients_gone_.clear();
    front_ = std::make_unique<FrontWatch>(setting_.verdict);
    router_ = std::make_unique<Router>(
        config, *this, text_, [this](char, const std::string& text, const std::string& id) {
            setting_.say(name(), id.empty() ? text : id + ": " + text);
            setting_.coverage.note_log(text);
        });
}

void RouterProcess::power_off() {
    note_router(*router_, setting_.coverage);
    router_.reset();
}

void RouterProcess::on_message(Arrival arrival, TimeUs now) {
    if (arrival.kind == Arrival::Kind::kLink)
        return router_->on_link(arrival.link, arrival.up, now);
    switch (arrival.wire) {
        case Wire::kControl:
            return router_->on_control(arrival.peer, arrival.bytes.bytes(), now);
        case Wire::kFront: return router_->on_client(arrival.peer, arrival.bytes.bytes(), now);
        case Wire::kData: return router_->on_result(std::move(arrival.bytes), now);
    }
}

void RouterProcess::on_tick(TimeUs now, TimeUs) {
    for (const std::string& peer : std::exchange(clients_gone_, {}))
        router_->on_client_gone(peer, now);
    for (const std::string& peer : std::exchange(workers_gone_, {}))
        router_->on_worker_gone(peer, now);
    router_->on_tick(now);
}

TimeUs RouterProcess::next_timer() const {
    if (!clients_gone_.empty() || !workers_gone_.empty()) return 0;
    return router_->next_timer();
}

void RouterProcess::unreachable(Wire wire, const std::string& peer) {
    setting_.coverage.note("a peer was unreachable");
    (wire == Wire::kControl ? workers_gone_ : clients_gone_).insert(peer);
}

void RouterProcess::send_data(LinkId id, Message frame) {
    const Result<wire::FrameHeader> header = wire::decode_header(frame.bytes());
    CL_ASSERT(header.ok());
    const auto decoded = wire::decode_frame(*header, frame.bytes());
    const auto& routes = router_->cluster().routes();
    setting_.ledger.sent(incarnation_, routes.at(header->generation),
                         std::get<wire::DataFrame>(decoded));
    Process::send_data(id, std::move(frame));
}

void RouterProcess::send_client(const std::string& peer, std::vector<uint8_t> bytes) {
    const Result<wire::RouterBody> body = wire::decode_router(bytes);
    CL_ASSERT(body.ok());
    front_->said(peer, *body);
    Process::send_client(peer, std::move(bytes));
}

// ---- a worker ----

WorkerProcess::WorkerProcess(Setting& setting, const WorkerPlace& place)
    : Process(setting.bus, setting.timeline, setting.random, place.name),
      setting_(setting),
      place_(place) {
    bus_.bind(*this, "data:" + place.name);
    const uint32_t typical = 100u << random_.below(6);
    set_unit_us(typical / 4, typical * 2);
}

wire::Hello WorkerProcess::hello() const {
    const ClusterConfig& cluster = setting_.router.cluster;
    wire::Hello hello;
    hello.name = place_.member;
    hello.endpoint = "data:" + place_.name;
    hello.layers = cluster.layers;
    hello.width = cluster.width;
    hello.vocab = cluster.vocab;
    hello.model_id = cluster.model_id;
    hello.cut_id = cluster.cut_id;
    hello.fingerprint = place_.is_stage ? cluster.fingerprint : cluster.sampler_fingerprint;
    hello.self_test = cluster.self_test;
    hello.kernels = "reference";
    hello.share = place_.share;
    if (place_.is_stage) {
        hello.roles |= wire::kRoleStage;
        hello.kv_cache_dtype = cluster.kv_cache_dtype;
        hello.layer_first = place_.stage;
        hello.layer_end = place_.stage + 1;
    }
    if (place_.is_sampler) hello.roles |= wire::kRoleSampler;
    return hello;
}

void WorkerProcess::power_on() {
    WorkerConfig config;
    config.incarnation = random_.next() | 1;
    config.routers = setting_.routers;
    config.hello = hello();
    config.drain_timeout_us = 5 * kSecondUs;
    const auto shares = static_cast<uint32_t>(setting_.routers.size());
    if (place_.is_stage) {
        compute_ = std::make_unique<HashStage>(place_.stage, place_.stage == 0,
                                               shares * place_.share.blocks, setting_.mistake);
        compute_->scramble(random_.next(), 0, shares * place_.share.blocks);
        StageConfig stage;
        stage.share = place_.share;
        stage.shares = shares;
        stage.vocab = kVocab;
        stage.blocks_per_slot = setting_.blocks_per_slot;
        stage_ = std::make_unique<WatchedStage>(stage, *compute_, config.incarnation,
                                                setting_.ledger, setting_.verdict);
        stage_->set_poison(setting_.poison, place_.stage, [this] { die(); });
    }
    if (place_.is_sampler) {
        head_ = std::make_unique<HashHead>(setting_.mistake);
        sampler_ = std::make_unique<Sampler>(
            *kernel::find_kernels("reference", kernel::cpu_features()));
        sampler_->set_compute(*head_);
    }
    const std::string identity = "worker:" + place_.member + ":" + hex16(config.incarnation);
    setting_.say(name(), "starts as " + hex16(config.incarnation));
    worker_ = std::make_unique<Worker>(std::move(config), *this, stage_.get(), sampler_.get());
    for (const std::string& router : setting_.routers) connect_control(router, identity);
    ready_ = false;
    ready_at_ = timeline_.now() + random_.below(300'000);
}

void WorkerProcess::power_off() {
    note_worker(worker_->counters(), setting_.coverage);
    if (stage_ != nullptr) setting_.coverage.note("an item was refused", stage_->items_refused());
    worker_.reset();
    stage_.reset();
    sampler_.reset();
    compute_.reset();
    head_.reset();
}

void WorkerProcess::on_message(Arrival arrival, TimeUs now) {
    if (arrival.kind == Arrival::Kind::kLink)
        return worker_->on_link(arrival.link, arrival.up, now);
    if (arrival.wire == Wire::kControl)
        return worker_->on_control(arrival.peer, arrival.bytes.bytes(), now);
    worker_->on_data(std::move(arrival.bytes), now);
}

void WorkerProcess::on_tick(TimeUs now, TimeUs gap_us) {
    if (!ready_ && now >= ready_at_) {
        ready_ = true;
        worker_->set_ready(now);
    }
    worker_->note_loop_gap(gap_us);
    worker_->on_tick(now);
}

TimeUs WorkerProcess::next_timer() const {
    const TimeUs next = worker_->next_timer();
    return ready_ ? next : std::min(next, ready_at_);
}

void WorkerProcess::after_turn() {
    for (size_t share = 0; share < setting_.routers.size(); ++share)
        if (worker_->frames_held(share) > place_.share.frames)
            setting_.verdict.broken(name() + " holds more frames than its share");
    if (!worker_->rejection()) return;
    setting_.say(name(), "ends: " + *worker_->rejection());
    setting_.coverage.note("a worker was refused");
    timeline_.in(kRestartUs + random_.below(kSecondUs), [this, boot = boot()] {
        const bool is_replaced = twin_ != nullptr && twin_->alive();
        if (!alive() && boot == this->boot() && !is_replaced) start();
    });
}

// In the middle of a unit.
void WorkerProcess::die() {
    timeline_.in(1, [this, boot = boot()] {
        if (!alive() || boot != this->boot()) return;
        setting_.say(name(), "dies of what it computes");
        setting_.coverage.note("fault: a request is poisonous");
        ++setting_.poison.deaths;
        crash();
        timeline_.in(kRestartUs, [this, boot] {
            if (!alive() && boot == this->boot()) start();
        });
    });
}

}  // namespace chatloop::sim
