#include "process.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop::sim {

void Process::start() {
    CL_ASSERT(!alive_);
    alive_ = true;
    paused_ = unit_runs_ = unit_overdue_ = false;
    ++boot_;
    wake_at_ = kNever;
    turned_at_ = timeline_.now();
    power_on();
    wake(timeline_.now());
}

void Process::crash() {
    CL_ASSERT(alive_);
    alive_ = false;
    paused_ = false;
    bus_.drop_process(*this);
    control_.clear();
    data_.clear();
    links_.clear();
    routers_.clear();
    power_off();
}

void Process::pause() { paused_ = true; }

void Process::resume() {
    if (!paused_) return;
    paused_ = false;
    if (std::exchange(unit_overdue_, false)) return end_unit();
    wake_at_ = kNever;
    wake(timeline_.now());
}

void Process::arrive(Arrival arrival) {
    const bool first = arrival.kind == Arrival::Kind::kLink || arrival.wire == Wire::kControl;
    (first ? control_ : data_).push_back(std::move(arrival));
    wake(timeline_.now());
}

void Process::wake(TimeUs when) {
    if (paused_ || unit_runs_ || when >= wake_at_) return;
    wake_at_ = when;
    timeline_.at(when, [this, when, boot = boot_] {
        if (!alive_ || paused_ || unit_runs_ || boot != boot_ || wake_at_ != when) return;
        turn();
    });
}

void Process::turn() {
    wake_at_ = kNever;
    const TimeUs now = timeline_.now();
    for (int i = 0; i < kDrainControlMax && !control_.empty(); ++i) {
        Arrival arrival = std::move(control_.front());
        control_.pop_front();
        on_message(std::move(arrival), now);
    }
    on_tick(now, now - turned_at_);
    turned_at_ = now;
    for (int i = 0; i < kDrainDataMax && !data_.empty(); ++i) {
        Arrival arrival = std::move(data_.front());
        data_.pop_front();
        on_message(std::move(arrival), now);
    }
    after_turn();
    if (finished()) return crash();
    if (!has_work()) return sleep();
    run_unit(now);
    unit_runs_ = true;
    const TimeUs took = TimeUs{random_.between(unit_least_us_, unit_most_us_)} * slowness_;
    timeline_.in(took, [this, boot = boot_] {
        if (!alive_ || boot != boot_ || !unit_runs_) return;
        if (paused_) unit_overdue_ = true;
        else end_unit();
    });
}

void Process::end_unit() {
    unit_runs_ = false;
    unit_done(timeline_.now());
    turned_at_ = timeline_.now();
    wake_at_ = kNever;
    wake(timeline_.now());
}

// poll() sleeps whole milliseconds.
void Process::sleep() {
    const TimeUs now = timeline_.now();
    if (!control_.empty() || !data_.empty()) return wake(now);
    const TimeUs next = next_timer();
    if (next != kNever) wake(std::max(next, now + kMillisecondUs));
}

void Process::connect_control(const std::string& router, const std::string& identity) {
    routers_[router] = bus_.connect(*this, Wire::kControl, router, identity, 0);
}

void Process::send_control(const std::string& peer, std::vector<uint8_t> bytes) {
    Message message(std::move(bytes));
    if (const auto router = routers_.find(peer); router != routers_.end())
        return bus_.send(router->second, std::move(message));
    if (!bus_.reply(*this, Wire::kControl, peer, std::move(message)))
        unreachable(Wire::kControl, peer);
}

void Process::send_client(const std::string& peer, std::vector<uint8_t> bytes) {
    if (!bus_.reply(*this, Wire::kFront, peer, Message(std::move(bytes))))
        unreachable(Wire::kFront, peer);
}

void Process::open_link(LinkId id, const std::string& endpoint) {
    CL_ASSERT(!links_.contains(id));
    links_[id] = bus_.connect(*this, Wire::kData, endpoint, "", id);
}

void Process::close_link(LinkId id) {
    const auto link = links_.find(id);
    CL_ASSERT(link != links_.end());
    bus_.close(link->second);
    links_.erase(link);
}

void Process::send_data(LinkId id, Message frame) {
    const auto link = links_.find(id);
    CL_ASSERT(link != links_.end());
    bus_.send(link->second, std::move(frame));
}

size_t Process::backlog(LinkId id) const {
    const auto link = links_.find(id);
    return link == links_.end() ? 0 : bus_.backlog(link->second);
}

}  // namespace chatloop::sim
