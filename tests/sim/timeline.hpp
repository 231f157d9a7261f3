// Virtual time: what is to happen, in order of time and then of asking.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "chatloop/core/clock.hpp"

namespace chatloop::sim {

class Timeline {
public:
    TimeUs now() const { return now_; }
    uint64_t steps() const { return steps_; }

    void at(TimeUs when, std::function<void()> what) {
        events_.push_back({std::max(when, now_), ++asked_, std::move(what)});
        std::push_heap(events_.begin(), events_.end(), later);
    }
    void in(TimeUs delay_us, std::function<void()> what) { at(now_ + delay_us, std::move(what)); }

    // False when nothing will ever happen.
    bool step() {
        if (events_.empty()) return false;
        std::pop_heap(events_.begin(), events_.end(), later);
        Event event = std::move(events_.back());
        events_.pop_back();
        now_ = event.when;
        ++steps_;
        event.what();
        return true;
    }

private:
    struct Event {
        TimeUs when = 0;
        uint64_t order = 0;
        std::function<void()> what;
    };
    static bool later(const Event& a, const Event& b) {
        return std::pair(a.when, a.order) > std::pair(b.when, b.order);
    }

    std::vector<Event> events_;  // a heap, the earliest first
    TimeUs now_ = kSecondUs;
    uint64_t asked_ = 0;
    uint64_t steps_ = 0;
};

}  // namespace chatloop::sim
