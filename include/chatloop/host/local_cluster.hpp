// A whole cluster in one process and one thread: router, stage workers and sampler over the
// in-process bus. cpud runs a real model on it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "chatloop/host/local_bus.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/router/router.hpp"
#include "chatloop/sampler/sampler.hpp"
#include "chatloop/stage/stage_worker.hpp"
#include "chatloop/worker/worker.hpp"

namespace chatloop {

struct LocalStage {
    StageCompute* compute = nullptr;
    uint32_t layer_first = 0;
    uint32_t layer_end = 0;
};

struct LocalClusterConfig {
    RouterConfig router;             // names, endpoints and incarnation are set here
    std::vector<LocalStage> stages;  // one after another, over all layers
    HeadCompute* head = nullptr;
    const kernel::Kernels* kernels = nullptr;  // of the sampler
    bool hosted_sampler = false;     // in the last stage's worker
    wire::Share share;               // of every worker
    uint32_t blocks_per_slot = 0;
};

class LocalCluster {
public:
    LocalCluster(const LocalClusterConfig& config, const TextEngine& text, Router::Log log);

    LocalBus& bus() { return bus_; }
    Router& router() { return *router_; }
    Worker& worker(size_t index) { return *members_[index]->worker; }
    size_t workers() const { return members_.size(); }

    // A client's message, and what it hears.
    void attach_client(const std::string& name,
                       std::function<void(const wire::RouterBody&, TimeUs)> on_message);
    void send(const std::string& client, const wire::ClientBody& body);
    void send_bytes(const std::string& client, std::vector<uint8_t> bytes);

    void tick(TimeUs now);
    TimeUs next_timer() const;

    bool has_work() const;  // step() finds something
    // Things that can happen now: a delivery, or one unit of an actor's work. `choose(n)` picks one
    // of n: deliveries first, what waits longest at 0. False when there is nothing. `clock` is read
    // around a unit.
    bool step(const std::function<size_t(size_t)>& choose, const std::function<TimeUs()>& clock);

private:
    struct Member {
        std::unique_ptr<StageWorker> stage;
        std::unique_ptr<Sampler> sampler;
        std::unique_ptr<Worker> worker;
    };

    void add_member(const LocalClusterConfig& config, size_t index, const LocalStage* stage,
                    bool sampler);

    LocalBus bus_;
    std::unique_ptr<Router> router_;
    std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace chatloop
