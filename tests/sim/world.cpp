#include "world.hpp"

#include <algorithm>
#include <set>

namespace chatloop::sim {

namespace {

constexpr uint32_t kBlocks = 24;
constexpr uint32_t kBlocksLeast = 4;  // the longest request fits
constexpr uint64_t kStepsMax = 3'000'000;
constexpr TimeUs kRequestsWithinUs = 1500 * kMillisecondUs;
constexpr TimeUs kFaultsWithinUs = 2 * kSecondUs;
constexpr TimeUs kLivenessUs = 60 * kSecondUs;  // after the last fault and the last request
constexpr TimeUs kClientSilenceUs = 5 * kSecondUs;
constexpr TimeUs kSettleUs = kClientSilenceUs + 2 * kSecondUs;  // of dead clients too
constexpr TimeUs kDrainUs = 40 * kSecondUs;

// Every other hash is another's too.
uint64_t colliding_hash(const uint32_t* ids, uint64_t before) {
    return hash_block(ids, before) % 4;
}

}  // namespace

World::World(uint64_t seed, const WorldOptions& options)
    : faults_(options.faults),
      random_(seed),
      bus_(timeline_, random_),
      setting_{timeline_, random_, bus_, verdict_, coverage_, ledger_, options.trace,
               options.mistake, {}, {}, 0, 0, {}} {
    configure();
    add_processes();
    add_requests();
    Nemesis::Victims victims;
    for (const auto& router : routers_) victims.routers.push_back(router.get());
    for (const auto& worker : workers_) victims.workers.push_back(worker.get());
    for (const auto& client : clients_) victims.clients.push_back(client.get());
    nemesis_ = std::make_unique<Nemesis>(setting_, std::move(victims));
    nemesis_->set_burst([this] { burst(); });
    nemesis_->plan(faults_planned_, timeline_.now() + kFaultsWithinUs, only_stops_);
}

void World::configure() {
    if (faults_ && !random_.one_in(10)) faults_planned_ = 1 + random_.below(8);
    only_stops_ = random_.one_in(20);
    setting_.stages = 1 + random_.below(3);
    RouterConfig& router = setting_.router;
    ClusterConfig& cluster = router.cluster;
    cluster.model_id = "hash";
    cluster.cut_id = "cut";
    cluster.fingerprint = 42;
    cluster.layers = setting_.stages;
    cluster.width = kWidth;
    cluster.vocab = kVocab;
    cluster.failure_threshold = 4;
    router.model_name = "hash";
    router.context_length = 256;
    router.stop_ids = {0};
    router.max_batch_size = 1 + random_.below(8);
    router.prefill_rows = 1 + random_.below(80);
    router.frames_in_flight = random_.one_in(2) ? 0 : 1 + random_.below(5);
    router.prefill_slice_us = 1 + random_.below(30'000);
    router.batching_window_us = random_.below(3) * kMillisecondUs;
    router.max_sequences = random_.below(6);
    router.kv_headroom_tokens = random_.below(70);
    router.prefix_cache = !random_.one_in(5);
    const bool is_hasty = faults_planned_ > 0 && !only_stops_ && random_.one_in(6);
    router.result_timeout_us = is_hasty ? 400 * kMillisecondUs : 3 * kSecondUs;
    router.client_silence_us = kClientSilenceUs;
    router.drain_timeout_us = 20 * kSecondUs;
    setting_.blocks_per_slot = 8;
    setting_.routers = {"router-0"};
    if (random_.one_in(4)) setting_.routers.push_back("router-1");
    if (random_.one_in(4)) cluster.block_hash = colliding_hash;
    setting_.poison.stage = random_.below(setting_.stages);
    poisons_ = faults_planned_ > 0 && !only_stops_ && random_.one_in(12) ? 1 : 0;
}

wire::Share World::draw_share() {
    wire::Share share;
    share.frames = 2 + random_.below(6);
    share.bytes = uint64_t{1 + random_.below(6)} << 20;
    share.slots = 1 + random_.below(6);
    share.blocks = random_.one_in(2) ? kBlocks : kBlocksLeast + random_.below(4);
    return share;
}

void World::add_processes() {
    for (const std::string& name : setting_.routers)
        routers_.push_back(std::make_unique<RouterProcess>(setting_, name));
    const bool hosted = random_.one_in(2);
    const bool is_even = !random_.one_in(4);  // else each worker has a share of its own
    const wire::Share share = draw_share();
    const auto add = [&](WorkerPlace place, uint32_t replicas) {
        const std::string name = place.name;
        for (uint32_t i = 0; i < replicas; ++i) {
            place.name = place.member = name + static_cast<char>('a' + i);
            place.share = is_even ? share : draw_share();
            workers_.push_back(std::make_unique<WorkerProcess>(setting_, place));
        }
    };
    for (uint32_t stage = 0; stage < setting_.stages; ++stage) {
        const bool with_sampler = hosted && stage + 1 == setting_.stages;
        const std::string name = "stage-" + std::to_string(stage);
        add({name, {}, true, with_sampler, stage, {}}, 1 + random_.below(2));
    }
    if (!hosted) add({"sampler-", {}, false, true, 0, {}}, 1 + random_.below(2));
    for (const auto& router : routers_) router->start();
    for (const auto& worker : workers_) worker->start();
    if (faults_ && random_.one_in(4)) add_twin();
}

// A process more under the name of another, that is not started yet.
void World::add_twin() {
    WorkerProcess& worker = *workers_[random_.below(static_cast<uint32_t>(workers_.size()))];
    WorkerPlace place = worker.place();
    place.name += "-twin";
    workers_.push_back(std::make_unique<WorkerProcess>(setting_, place));
    worker.set_twin(*workers_.back());
    workers_.back()->set_twin(worker);
}

void World::add_requests() {
    const uint32_t clients = 1 + random_.below(4);
    for (uint32_t i = 0; i < clients; ++i) {
        clients_.push_back(
            std::make_unique<ClientProcess>(setting_, "client-" + std::to_string(i)));
        clients_.back()->start();
    }
    const uint32_t count = 3 + random_.below(20);
    const auto within = static_cast<uint32_t>(faults_ ? kRequestsWithinUs : kSecondUs);
    for (uint32_t i = 0; i < count; ++i)
        add_request(*clients_[random_.below(clients)], timeline_.now() + random_.below(within));
}

void World::add_request(ClientProcess& client, TimeUs at) {
    SimRequest request = make_request(random_, requests_made_++, at);
    if (poisons_ > 0) {
        --poisons_;
        request.poison = true;
        std::get<std::vector<uint32_t>>(request.submit.parameters.prompt)[0] = kPoisonId;
    }
    expect(request, setting_.stages);
    if (request.submit.parameters.max_tokens > 0 && !request.poison && random_.one_in(5))
        begin_elsewhere(request, random_);
    client.add(std::move(request));
}

// A stage was replaced a moment ago: its cache is another's memory.
void World::burst() {
    for (const auto& client : clients_)
        if (client->alive()) return add_request(*client, timeline_.now());
}

bool World::all_ended() const {
    return std::all_of(clients_.begin(), clients_.end(),
                       [](const auto& client) { return client->all_ended(); });
}

void World::run() {
    TimeUs busy_until = timeline_.now() + kRequestsWithinUs;
    while (verdict_.ok() && !(all_ended() && timeline_.now() >= nemesis_->over_at())) {
        busy_until = std::max(busy_until, nemesis_->over_at());
        if (timeline_.now() > busy_until + kLivenessUs)
            return check_requests(), verdict_.broken("it does not end");
        if (timeline_.steps() > kStepsMax) return verdict_.broken("it takes too many steps");
        if (!timeline_.step()) return verdict_.broken("nothing happens any more");
    }
    step_until(timeline_.now() + (faults_planned_ > 0 ? kSettleUs : kSecondUs));
    if (!verdict_.ok()) return;
    check_requests();
    check_rest();
    drain();
    for (const auto& router : routers_)
        if (router->alive()) note_router(*router->router(), coverage_);
    for (const auto& worker : workers_)
        if (worker->alive()) note_worker(worker->worker()->counters(), coverage_);
    coverage_.note("a message was lost on the way", bus_.lost());
    coverage_.note("a message came after its connection broke", bus_.late_after_break());
    coverage_.note("an identity was taken over", bus_.handovers());
    if (routers_.size() > 1) coverage_.note("two routers on the same workers");
}

void World::step_until(TimeUs when) {
    timeline_.at(when, [] {});
    while (verdict_.ok() && timeline_.now() < when) timeline_.step();
}

void World::check_requests() {
    const bool may_poison = nemesis_->workers_killed() + setting_.poison.deaths >= 2;
    for (const auto& client : clients_) {
        for (const SimRequest& request : client->requests()) {
            if (may_poison && request.failure && request.failure->code == "poison") continue;
            if (const std::string what = check(request); !what.empty()) verdict_.broken(what);
        }
    }
}

// Everything was given back; and without a fault nothing was ever out of order.
void World::check_rest() {
    for (const auto& process : routers_) {
        const Router& router = *process->router();
        if (router.running() != 0 || router.waiting() != 0)
            verdict_.broken("a router still holds requests");
        for (const auto& [generation, route] : router.cluster().routes())
            if (route.kv->free_blocks() != route.kv->block_count() ||
                route.kv->free_slots() != route.kv->slot_count())
                verdict_.broken("a slot or block did not return to its pool");
        std::set<std::string> names;
        for (const auto& [incarnation, worker] : router.cluster().workers()) {
            if (worker.credit.frames_out() != 0)
                verdict_.broken("credit of " + worker.hello.name + " did not return");
            if (!names.insert(worker.hello.name).second)
                verdict_.broken("two processes go by the name " + worker.hello.name);
        }
        const RouterCounters& counters = router.counters();
        const bool is_calm = faults_planned_ == 0 || only_stops_;
        if (is_calm && counters.results_bad + counters.routes_down > 0)
            verdict_.broken("a route went down without a fault");
        if (faults_planned_ == 0 && cancelled() == 0 && counters.results_uncommitted > 0)
            verdict_.broken("what was in flight was preempted");
    }
    if (faults_planned_ > 0) return;
    for (const auto& process : workers_) {
        if (!process->alive()) continue;
        const wire::WorkerCounters& c = process->worker()->counters();
        if (c.frames_gap + c.frames_duplicate + c.headers_bad + c.control_bad != 0)
            verdict_.broken("a worker saw a frame or message that must not be");
    }
}

void World::drain() {
    const TimeUs until = timeline_.now() + kDrainUs;
    for (const auto& router : routers_) router->drain();
    for (const auto& worker : workers_)
        if (worker->alive()) worker->drain();
    const auto done = [](const auto& process) { return !process->alive(); };
    while (verdict_.ok() && !(std::all_of(routers_.begin(), routers_.end(), done) &&
                              std::all_of(workers_.begin(), workers_.end(), done))) {
        if (timeline_.now() > until) return verdict_.broken("it does not drain");
        if (!timeline_.step()) return verdict_.broken("nothing happens any more");
    }
}

uint64_t World::requests() const { return requests_made_; }

uint64_t World::cancelled() const {
    uint64_t count = 0;
    for (const auto& client : clients_)
        for (const SimRequest& r : client->requests())
            count += r.done && r.done->finish_reason == "cancelled" ? 1 : 0;
    return count;
}

}  // namespace chatloop::sim
