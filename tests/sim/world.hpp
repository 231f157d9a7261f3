// One simulated run: routers, workers and clients as processes on a network in virtual time, with
// random requests and faults, everything drawn from one seed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client.hpp"
#include "members.hpp"
#include "nemesis.hpp"

namespace chatloop::sim {

struct WorldOptions {
    Mistake mistake = Mistake::kNone;
    bool faults = true;
    bool trace = false;
};

class World {
public:
    World(uint64_t seed, const WorldOptions& options);

    // Runs until every request has ended and every fault is over, then drains.
    void run();
    // The first thing that is wrong, or empty.
    const std::string& wrong() const { return verdict_.what(); }

    uint64_t steps() const { return timeline_.steps(); }
    TimeUs virtual_us() const { return timeline_.now() - kSecondUs; }
    const Coverage& coverage() const { return coverage_; }
    uint64_t requests() const;
    uint64_t cancelled() const;

private:
    void configure();
    wire::Share draw_share();
    void add_processes();
    void add_twin();
    void add_requests();
    void add_request(ClientProcess& client, TimeUs at);
    void burst();
    bool all_ended() const;
    void step_until(TimeUs when);
    void check_requests();
    void check_rest();
    void drain();

    bool faults_;
    Random random_;
    Timeline timeline_;
    Verdict verdict_;
    Coverage coverage_;
    Ledger ledger_;
    SimBus bus_;
    Setting setting_;
    std::vector<std::unique_ptr<RouterProcess>> routers_;
    std::vector<std::unique_ptr<WorkerProcess>> workers_;
    std::vector<std::unique_ptr<ClientProcess>> clients_;
    std::unique_ptr<Nemesis> nemesis_;
    uint32_t requests_made_ = 0;
    uint32_t faults_planned_ = 0;
    bool only_stops_ = false;  // of routers
    uint32_t poisons_ = 0;  // requests that still are to be
};

}  // namespace chatloop::sim
