// A Relay passes data frames on to the next hop, in order, one a unit. It owns no socket and reads
// no clock.
//
//     on_data -> queue -> run_unit -> next hop          drain -> queue empty -> finished
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "chatloop/bus/outbox.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/core/ids.hpp"

namespace chatloop {

struct RelayConfig {
    std::string next_endpoint;
    Incarnation next = 0;  // the process that is meant there, not one that took its port
    TimeUs report_interval_us = kSecondUs;
    TimeUs drain_timeout_us = 20 * kSecondUs;
};

// What was done and what was dropped: each reason is counted apart.
struct RelayCounters {
    uint64_t frames_forwarded = 0;
    uint64_t frames_malformed = 0;
    uint64_t frames_beyond_queue = 0;
};

class Relay {
public:
    using Report = std::function<void(const RelayCounters& counters)>;

    Relay(RelayConfig config, Outbox& outbox, Report report);

    // What comes in.
    void on_data(Message frame, TimeUs now);
    void on_link(LinkId link, bool up, TimeUs now);
    void on_tick(TimeUs now);

    // What the loop asks.
    TimeUs next_timer() const;
    bool has_work() const { return link_up_ && !queue_.empty(); }
    void run_unit(TimeUs now);
    void drain(TimeUs now);  // SIGTERM; the second one ends at once
    bool finished() const { return finished_; }

    const RelayCounters& counters() const { return counters_; }

private:
    RelayConfig config_;
    Outbox& outbox_;
    Report report_;
    std::deque<Message> queue_;  // checked frames, kShareFramesMax at most
    LinkId link_ = 1;
    bool link_up_ = false;
    TimeUs report_at_ = 0;
    TimeUs drain_until_ = kNever;
    bool finished_ = false;
    RelayCounters counters_;
};

}  // namespace chatloop
