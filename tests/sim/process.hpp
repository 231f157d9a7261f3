// A simulated process: the sockets' inbox and the loop of bus/poll_loop.hpp in virtual time.
// Control comes before data, one unit of work between two looks at the sockets, nothing else
// happens while a unit runs; a stopped process does nothing and its sockets fill.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "sim_bus.hpp"

namespace chatloop::sim {

class Process : public Outbox {
public:
    Process(SimBus& bus, Timeline& timeline, Random& random, std::string name)
        : bus_(bus), timeline_(timeline), random_(random), name_(std::move(name)) {}

    const std::string& name() const { return name_; }
    bool alive() const { return alive_; }
    bool paused() const { return paused_; }
    uint32_t boot() const { return boot_; }  // counts its starts

    void start();
    void crash();
    void pause();
    void resume();
    void set_unit_us(uint32_t least, uint32_t most) {
        unit_least_us_ = least;
        unit_most_us_ = most;
    }
    void set_slowness(uint32_t factor) { slowness_ = factor; }

    void arrive(Arrival arrival);
    void wake(TimeUs when);
    size_t waiting_frames() const { return data_.size(); }

    // Outbox.
    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override;
    void send_client(const std::string& peer, std::vector<uint8_t> bytes) override;
    void open_link(LinkId id, const std::string& endpoint) override;
    void close_link(LinkId id) override;
    void send_data(LinkId id, Message frame) override;
    size_t backlog(LinkId id) const override;

protected:
    // Makes and ends what this start of it is made of.
    virtual void power_on() = 0;
    virtual void power_off() = 0;
    virtual void on_message(Arrival arrival, TimeUs now) = 0;
    virtual void on_tick(TimeUs now, TimeUs gap_us) = 0;
    virtual TimeUs next_timer() const = 0;
    virtual bool has_work() const = 0;
    virtual void run_unit(TimeUs now) = 0;
    virtual void unit_done(TimeUs now) = 0;
    virtual bool finished() const = 0;
    virtual void after_turn() {}
    virtual void unreachable(Wire, const std::string&) {}

    void connect_control(const std::string& router, const std::string& identity);
    bool control_is_up(const std::string& router) const;

    SimBus& bus_;
    Timeline& timeline_;
    Random& random_;

private:
    void turn();
    void end_unit();
    void sleep();

    std::string name_;
    bool alive_ = false;
    bool paused_ = false;
    bool unit_runs_ = false;
    bool unit_overdue_ = false;  // ended while the process was stopped
    uint32_t boot_ = 0;
    TimeUs wake_at_ = kNever;
    TimeUs turned_at_ = 0;
    uint32_t unit_least_us_ = 20;
    uint32_t unit_most_us_ = 200;
    uint32_t slowness_ = 1;
    std::deque<Arrival> control_;
    std::deque<Arrival> data_;  // and front
    std::map<LinkId, SimBus::ConnectionId> links_;
    std::map<std::string, SimBus::ConnectionId> routers_;  // a worker's control connections
};

}  // namespace chatloop::sim
