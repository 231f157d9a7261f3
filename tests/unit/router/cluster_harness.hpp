// A Cluster between a fake outbox and workers that are lines of a test.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/router/cluster.hpp"
#include "support/fake_outbox.hpp"

namespace chatloop::test {

inline constexpr Incarnation kRouter = 1;

inline ClusterConfig cluster_config(uint32_t layers) {
    ClusterConfig config;
    config.name = "router";
    config.incarnation = kRouter;
    config.result_endpoint = "result";
    config.model_id = "model";
    config.cut_id = "the-cut";
    config.fingerprint = 42;
    config.sampler_fingerprint = 43;
    config.kv_cache_dtype = "f16";
    config.self_test = 7;
    config.layers = layers;
    config.width = 2;
    config.vocab = 96;
    config.failure_threshold = 25;  // a test need not beat for its workers all the time
    return config;
}

struct WorkerSpec {
    Incarnation incarnation = 0;
    std::string name;
    uint8_t roles = wire::kRoleStage;
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;
    wire::Share share = {4, 1u << 20, 4, 16};
};

inline wire::Hello hello_of(const ClusterConfig& config, const WorkerSpec& spec) {
    wire::Hello hello;
    hello.name = spec.name;
    hello.roles = spec.roles;
    hello.layer_first = spec.layer_first;
    hello.layer_end = spec.layer_end;
    hello.layers = config.layers;
    hello.width = config.width;
    hello.vocab = config.vocab;
    hello.endpoint = "in:" + spec.name;
    hello.model_id = config.model_id;
    hello.cut_id = config.cut_id;
    const bool is_stage = (spec.roles & wire::kRoleStage) != 0;
    hello.fingerprint = is_stage ? config.fingerprint : config.sampler_fingerprint;
    if (is_stage) hello.kv_cache_dtype = config.kv_cache_dtype;
    hello.self_test = config.self_test;
    hello.kernels = "reference";
    hello.share = spec.share;
    return hello;
}

inline std::string peer_of(Incarnation incarnation) {
    return "worker:" + std::to_string(incarnation);
}

class ClusterHarness : public Cluster::Events {
public:
    explicit ClusterHarness(uint32_t layers) : config(cluster_config(layers)) {
        cluster = std::make_unique<Cluster>(config, outbox, *this);
    }

    void hear(Incarnation from, wire::ControlBody body) {
        const wire::Control message{from, ++sequence_, std::move(body)};
        cluster->on_control(peer_of(from), wire::encode_control(message), now);
    }
    // HELLO and the first heartbeat of a worker whose weights are in memory.
    void join(const WorkerSpec& spec) {
        hear(spec.incarnation, hello_of(config, spec));
        beat(spec.incarnation);
    }
    // A process of the name was killed, and this is the next one.
    void restart(Incarnation before, const WorkerSpec& spec) {
        cluster->on_unreachable(peer_of(before), now);
        insist(spec);
        beat(spec.incarnation);
    }
    // Two HELLOs, as a process says them that lives.
    void insist(const WorkerSpec& spec) {
        hear(spec.incarnation, hello_of(config, spec));
        now += 100 * kMillisecondUs;
        hear(spec.incarnation, hello_of(config, spec));
    }
    void stage(Incarnation incarnation, const std::string& name, uint32_t first, uint32_t end) {
        join({incarnation, name, wire::kRoleStage, first, end});
    }
    void sampler(Incarnation incarnation, const std::string& name) {
        join({incarnation, name, wire::kRoleSampler, 0, 0});
    }
    void beat(Incarnation from, std::vector<wire::RouteReport> routes = {},
              wire::WorkerState state = wire::WorkerState::kReady, Generation fenced = 0) {
        hear(from, wire::WorkerHeartbeat{state, 0, 0, fenced, std::move(routes), {}});
    }
    void tick(TimeUs later = 0) {
        now += later;
        cluster->on_tick(now);
    }
    std::vector<wire::Route> routes_to(Incarnation incarnation) const {
        return outbox.controls<wire::Route>(peer_of(incarnation));
    }
    // READY of all, and the router's own link.
    void bring_up(Generation generation) {
        const Route route = *cluster->find_route(generation);
        for (const Incarnation worker : route.workers) hear(worker, wire::Ready{generation});
        cluster->on_link(route.link, true, now);
    }
    // Ticks until nothing more is formed; the generation of the newest route.
    Generation form() {
        for (int i = 0; i < 8; ++i) tick(200 * kMillisecondUs);
        return cluster->routes().empty() ? 0 : cluster->routes().rbegin()->first;
    }

    ClusterConfig config;
    FakeOutbox outbox;
    TimeUs now = kSecondUs;
    std::unique_ptr<Cluster> cluster;
    std::vector<Generation> up;
    std::vector<std::pair<Generation, std::string>> down;
    std::vector<Generation> kv_lost;
    std::vector<Incarnation> died;
    std::vector<std::string> events;
    std::vector<std::string> shut_out;

private:
    void on_route_up(const Route& route) override { up.push_back(route.generation); }
    void on_route_down(const Route& route, const std::string& why, TimeUs) override {
        down.emplace_back(route.generation, why);
    }
    void on_kv_lost(Generation generation, const std::string&, TimeUs) override {
        kv_lost.push_back(generation);
    }
    void on_worker_refused(const RefusedWorker& worker) override {
        events.push_back(worker.name + " was refused: " + worker.reason);
    }
    void on_worker_died(Incarnation worker, TimeUs) override { died.push_back(worker); }
    void on_last_report(Incarnation, const wire::RouteReport&) override {}
    void on_quarantine(const std::string& peer) override { shut_out.push_back(peer); }
    void on_worker_event(const WorkerPeer& worker, const std::string& what) override {
        events.push_back(worker.hello.name + " " + what);
    }

    uint64_t sequence_ = 0;
};

}  // namespace chatloop::test
