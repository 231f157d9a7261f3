// What the router has measured since it started, for /metrics and STATUS.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "chatloop/core/clock.hpp"
#include "chatloop/core/histogram.hpp"

namespace chatloop {

// Of a worker in one of its roles, by RESULTs. It outlives the worker's process: the next one of
// that name goes on with it.
struct WorkerTimes {
    Histogram response_s{kStepBoundsS};  // of a frame: queue and compute
    Histogram step_s{kStepBoundsS};      // compute
    uint64_t busy_us = 0;
    uint64_t queue_us = 0;
    uint64_t work_us = 0;  // its routes had frames on their way
    uint64_t frames = 0;
    uint64_t rows = 0;
};

// What only the owner of the sockets sees, for STATUS.
struct SocketCounters {
    uint64_t front_malformed = 0;  // messages of a wrong number of parts
    uint64_t ctrl_malformed = 0;
    uint64_t result_malformed = 0;
    uint64_t backlog_drops = 0;  // clients for which too much or too long waited
    uint64_t backlog_messages_dropped = 0;
    uint64_t backlog_bytes = 0;  // now
    uint64_t sends_blocked = 0;  // frames and control that met a full queue
};

struct RouterMetrics {
    Histogram request_s{kRequestBoundsS};     // from arrival to DONE or ERROR, of accepted requests
    uint64_t requests_routed = 0;             // sequences that got a place on a route, each time
    uint64_t tokens_generated = 0;            // in pieces to clients
    double tokens_per_s = 0;                  // of these, over the last seconds
    uint64_t wire_us = 0;                     // of all frames: neither computed nor queued at a hop
    std::map<std::string, uint64_t> ended;    // requests, by finish_reason or error code
    std::map<std::pair<std::string, uint8_t>, WorkerTimes> workers;  // by name and Role bit
};

}  // namespace chatloop
