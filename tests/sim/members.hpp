// The processes of a simulated cluster: the actor classes that the real ones run.
#pragma once

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "chatloop/router/router.hpp"
#include "chatloop/sampler/sampler.hpp"
#include "chatloop/worker/worker.hpp"
#include "coverage.hpp"
#include "fake_text.hpp"
#include "process.hpp"
#include "watch.hpp"

namespace chatloop::sim {

// What the processes of one run share.
struct Setting {
    Timeline& timeline;
    Random& random;
    SimBus& bus;
    Verdict& verdict;
    Coverage& coverage;
    Ledger& ledger;
    bool trace = false;
    Mistake mistake = Mistake::kNone;

    RouterConfig router;                // of every router, but for its names and incarnation
    std::vector<std::string> routers;   // control endpoints
    uint32_t blocks_per_slot = 0;
    uint32_t stages = 0;
    Poison poison;

    void say(const std::string& who, const std::string& text) const;
};

std::string result_endpoint(const std::string& router);
std::string front_endpoint(const std::string& router);

class RouterProcess final : public Process {
public:
    RouterProcess(Setting& setting, const std::string& name);

    const Router* router() const { return router_.get(); }
    // Of this incarnation, that the first worker of a route has not returned yet.
    uint32_t frames_in_flight(Incarnation incarnation) const;
    void drain() { router_->drain(timeline_.now()); wake(timeline_.now()); }

    void send_data(LinkId id, Message frame) override;
    void send_client(const std::string& peer, std::vector<uint8_t> bytes) override;

protected:
    void power_on() override;
    void power_off() override;
    void on_message(Arrival arrival, TimeUs now) override;
    void on_tick(TimeUs now, TimeUs gap_us) override;
    TimeUs next_timer() const override;
    bool has_work() const override { return router_->has_work(); }
    void run_unit(TimeUs now) override { router_->run_unit(now); }
    void unit_done(TimeUs) override {}
    bool finished() const override { return router_->finished(); }
    void unreachable(Wire wire, const std::string& peer) override;

private:
    Setting& setting_;
    FakeText text_;
    Incarnation incarnation_ = 0;
    std::unique_ptr<Router> router_;
    std::unique_ptr<FrontWatch> front_;
    std::set<std::string> workers_gone_;
    std::set<std::string> clients_gone_;
};

struct WorkerPlace {
    std::string name;    // of the process, and of its endpoint
    std::string member;  // what it calls itself: a twin has another's
    bool is_stage = false;
    bool is_sampler = false;
    uint32_t stage = 0;
    wire::Share share;  // of each router

    // The same for all that can take each other's place.
    int role() const { return is_stage ? static_cast<int>(stage) : -1; }
};

class WorkerProcess final : public Process {
public:
    WorkerProcess(Setting& setting, const WorkerPlace& place);

    const WorkerPlace& place() const { return place_; }
    const Worker* worker() const { return worker_.get(); }
    void drain() { worker_->drain(timeline_.now()); wake(timeline_.now()); }
    void lose_tables() { stage_->lose_tables(); }
    // Another process under the same name: one of the two lives.
    void set_twin(WorkerProcess& twin) { twin_ = &twin; }
    WorkerProcess* twin() const { return twin_; }

protected:
    void power_on() override;
    void power_off() override;
    void on_message(Arrival arrival, TimeUs now) override;
    void on_tick(TimeUs now, TimeUs gap_us) override;
    TimeUs next_timer() const override;
    bool has_work() const override { return ready_ && worker_->has_work(); }
    void run_unit(TimeUs now) override { worker_->run_unit(now); }
    void unit_done(TimeUs now) override { worker_->unit_done(now); }
    bool finished() const override { return worker_->finished() || worker_->rejection(); }
    void after_turn() override;

private:
    wire::Hello hello() const;
    void die();

    Setting& setting_;
    WorkerPlace place_;
    std::unique_ptr<HashStage> compute_;
    std::unique_ptr<HashHead> head_;
    std::unique_ptr<WatchedStage> stage_;
    std::unique_ptr<Sampler> sampler_;
    std::unique_ptr<Worker> worker_;
    bool ready_ = false;
    TimeUs ready_at_ = 0;
    WorkerProcess* twin_ = nullptr;
};

}  // namespace chatloop::sim
