// One router as a worker sees it: membership, installed routes, fences and the frames it has sent.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "chatloop/bus/outbox.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/core/ids.hpp"
#include "chatloop/wire/messages.hpp"
#include "chatloop/worker/executor.hpp"

namespace chatloop {

// One hop of an installed route that this process is.
struct InstalledHop {
    wire::RouteHop hop;
    LinkId link = 0;          // to the next hop; unused when the next hop is in this process
    bool link_up = false;
    FrameNumber accepted = 0;
    FrameNumber forwarded = 0;
};

struct InstalledRoute {
    std::vector<InstalledHop> hops;  // ascending
    TimeUs installed_at = 0;
    bool ready_sent = false;
    bool unreachable_sent = false;

    bool links_up() const {
        for (const InstalledHop& h : hops)
            if (!h.link_up) return false;
        return true;
    }
};

struct RouterSession {
    size_t share = 0;          // index of this router's share
    std::string peer;          // its control endpoint
    Incarnation router = 0;    // 0 until WELCOME
    // Router processes that welcomed us, the latest last: the others were replaced and are never
    // accepted again.
    std::deque<Incarnation> welcomed;
    bool rejected = false;
    wire::Welcome welcome;
    Generation fenced_through = 0;
    std::map<Generation, InstalledRoute> routes;
    std::vector<FramePtr> queue;     // accepted, in arrival order, for either role
    uint64_t sequence = 0;           // of our control messages
    uint64_t heard_sequence = 0;
    TimeUs heard_at = 0;
    TimeUs hello_at = 0;             // next HELLO is due
    TimeUs heartbeat_at = kNever;    // next heartbeat is due

    bool replaced(Incarnation incarnation) const {
        return std::find(welcomed.begin(), welcomed.end(), incarnation) != welcomed.end() &&
               welcomed.back() != incarnation;
    }
};

}  // namespace chatloop
