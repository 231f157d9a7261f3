#include "chatloop/host/local_cluster.hpp"

#include <algorithm>

namespace chatloop {

namespace {

constexpr char kRouterName[] = "router";
constexpr char kResultEndpoint[] = "local:result";

}  // namespace

LocalCluster::LocalCluster(const LocalClusterConfig& config, const TextEngine& text,
                           Router::Log log) {
    RouterConfig router = config.router;
    router.cluster.name = kRouterName;
    router.cluster.incarnation = 1;
    router.cluster.result_endpoint = kResultEndpoint;
    LocalBus::Handlers handlers;
    handlers.control = [this](const std::string& from, Message bytes, TimeUs now) {
        router_->on_control(from, bytes.bytes(), now);
    };
    handlers.front = [this](const std::string& from, Message bytes, TimeUs now) {
        router_->on_client(from, bytes.bytes(), now);
    };
    handlers.data = [this](Message bytes, TimeUs now) {
        router_->on_result(std::move(bytes), now);
    };
    handlers.link = [this](LinkId link, bool up, TimeUs now) { router_->on_link(link, up, now); };
    Outbox& outbox = bus_.attach(kRouterName, kResultEndpoint, std::move(handlers));
    router_ = std::make_unique<Router>(router, outbox, text, std::move(log));

    for (size_t i = 0; i < config.stages.size(); ++i) {
        const bool with_sampler = config.hosted_sampler && i + 1 == config.stages.size();
        add_member(config, i, &config.stages[i], with_sampler);
    }
    if (!config.hosted_sampler) add_member(config, config.stages.size(), nullptr, true);
}

void LocalCluster::add_member(const LocalClusterConfig& config, size_t index,
                              const LocalStage* stage, bool sampler) {
    auto member = std::make_unique<Member>();
    WorkerConfig worker;
    worker.incarnation = 100 + index;
    worker.routers = {kRouterName};
    wire::Hello& hello = worker.hello;
    const ClusterConfig& cluster = config.router.cluster;
    hello.name = "worker-" + std::to_string(index);
    hello.endpoint = "local:" + hello.name;
    hello.layers = cluster.layers;
    hello.width = cluster.width;
    hello.vocab = cluster.vocab;
    hello.model_id = cluster.model_id;
    hello.cut_id = cluster.cut_id;
    hello.fingerprint = cluster.sampler_fingerprint;
    hello.self_test = cluster.self_test;
    hello.kernels = config.kernels->name;
    hello.share = config.share;
    if (stage != nullptr) {
        hello.roles |= wire::kRoleStage;
        hello.fingerprint = cluster.fingerprint;
        hello.kv_cache_dtype = cluster.kv_cache_dtype;
        hello.layer_first = stage->layer_first;
        hello.layer_end = stage->layer_end;
        StageConfig stage_config;
        stage_config.share = config.share;
        stage_config.vocab = cluster.vocab;
        stage_config.blocks_per_slot = config.blocks_per_slot;
        member->stage = std::make_unique<StageWorker>(stage_config);
        member->stage->set_compute(*stage->compute);
    }
    if (sampler) {
        hello.roles |= wire::kRoleSampler;
        member->sampler = std::make_unique<Sampler>(*config.kernels);
        member->sampler->set_compute(*config.head);
    }
    Member& self = *member;
    LocalBus::Handlers handlers;
    handlers.control = [&self](const std::string& from, Message bytes, TimeUs now) {
        self.worker->on_control(from, bytes.bytes(), now);
    };
    handlers.data = [&self](Message bytes, TimeUs now) {
        self.worker->on_data(std::move(bytes), now);
    };
    handlers.link = [&self](LinkId link, bool up, TimeUs now) {
        self.worker->on_link(link, up, now);
    };
    Outbox& outbox = bus_.attach(hello.name, hello.endpoint, std::move(handlers));
    member->worker = std::make_unique<Worker>(std::move(worker), outbox, member->stage.get(),
                                              member->sampler.get());
    member->worker->set_ready(0);
    members_.push_back(std::move(member));
}

void LocalCluster::attach_client(const std::string& name,
                                 std::function<void(const wire::RouterBody&, TimeUs)> on_message) {
    LocalBus::Handlers handlers;
    handlers.front = [on_message = std::move(on_message)](const std::string&, Message bytes,
                                                          TimeUs now) {
        const Result<wire::RouterBody> body = wire::decode_router(bytes.bytes());
        CL_ASSERT(body.ok());
        on_message(*body, now);
    };
    bus_.attach(name, "", std::move(handlers));
}

void LocalCluster::send(const std::string& client, const wire::ClientBody& body) {
    send_bytes(client, wire::encode_client(body));
}

void LocalCluster::send_bytes(const std::string& client, std::vector<uint8_t> bytes) {
    bus_.send_front(client, kRouterName, std::move(bytes));
}

void LocalCluster::tick(TimeUs now) {
    router_->on_tick(now);
    for (const auto& member : members_) member->worker->on_tick(now);
}

TimeUs LocalCluster::next_timer() const {
    TimeUs next = router_->next_timer();
    for (const auto& member : members_) next = std::min(next, member->worker->next_timer());
    return next;
}

bool LocalCluster::has_work() const {
    return bus_.pending() > 0 || router_->has_work() ||
           std::any_of(members_.begin(), members_.end(),
                       [](const auto& member) { return member->worker->has_work(); });
}

bool LocalCluster::step(const std::function<size_t(size_t)>& choose,
                        const std::function<TimeUs()>& clock) {
    std::vector<Worker*> busy;
    for (const auto& member : members_)
        if (member->worker->has_work()) busy.push_back(member->worker.get());
    const size_t deliveries = bus_.pending();
    const size_t text = router_->has_work() ? 1 : 0;
    const size_t choices = deliveries + text + busy.size();
    if (choices == 0) return false;
    const size_t choice = choose(choices);
    CL_ASSERT(choice < choices);
    if (choice < deliveries) {
        bus_.deliver(choice, clock());
    } else if (choice < deliveries + text) {
        router_->run_unit(clock());
    } else {
        Worker& worker = *busy[choice - deliveries - text];
        worker.run_unit(clock());
        worker.unit_done(clock());
    }
    return true;
}

}  // namespace chatloop
