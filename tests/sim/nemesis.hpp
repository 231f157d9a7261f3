// What goes wrong in a run: faults of all kinds at random times, sometimes several at once.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client.hpp"
#include "members.hpp"

namespace chatloop::sim {

class Nemesis {
public:
    struct Victims {
        std::vector<RouterProcess*> routers;
        std::vector<WorkerProcess*> workers;
        std::vector<ClientProcess*> clients;
    };

    Nemesis(Setting& setting, Victims victims);

    // Asks for so many faults between now and then. All of them end by themselves, but for a bad
    // edge, around which there is a way. `only_stops`: routers are stopped for a while.
    void plan(uint32_t faults, TimeUs until, bool only_stops);
    TimeUs over_at() const { return over_at_; }
    uint32_t workers_killed() const { return workers_killed_; }
    // Requests that come right after a stage was replaced.
    void set_burst(std::function<void()> burst) { burst_ = std::move(burst); }

private:
    // A frame that is to be harmed as it passes.
    enum class Harm : uint8_t {
        kNone,
        kLose,
        kLoseFiller,
        kLoseResult,
        kLoseLastResult,
        kFlipHeader,
        kFlipBody,
        kDouble,
    };

    void strike();
    void kill_worker();
    void kill(WorkerProcess& worker);
    void kill_router();
    void stop(Process& process, uint32_t most_ms);
    void isolate();
    void cut_one_way();
    void cut_edge();
    void cut_edge_for_good();
    void cut_control();
    void block_for(Process& from, Process& to, uint8_t wires, TimeUs how_long);
    void slow_network();
    void slow_compute();
    void reset_connection();
    void harm_frame();
    void trouble_client();
    void drain_worker();
    void revive_when_ended(WorkerProcess& worker, uint32_t boot);
    void lose_tables();
    void start_twin();
    void revive(Process& process, TimeUs at);
    void note(const std::string& what);
    void lasts_until(TimeUs when) { over_at_ = std::max(over_at_, when); }
    TimeUs draw_duration(uint32_t most_ms);
    Fate on_frame(const Passing& passing, Message& frame);
    bool matches(const Message& frame) const;
    void flip(Message& frame, size_t from, size_t to);

    WorkerProcess& any_worker();
    RouterProcess& any_router();

    Setting& setting_;
    Random& random_;
    Timeline& timeline_;
    Victims victims_;
    TimeUs over_at_ = 0;
    uint32_t workers_killed_ = 0;
    bool only_stops_ = false;
    bool has_bad_edge_ = false;
    Harm harm_ = Harm::kNone;
    uint32_t pass_before_harm_ = 0;
    std::function<void()> burst_;
};

}  // namespace chatloop::sim
