#include "coverage.hpp"

#include <utility>

namespace chatloop::sim {

namespace {

// What a router's log says, and what that is.
constexpr std::pair<const char*, const char*> kLines[] = {
    {"is silent", "recovery: a worker is silent"},
    {"is heard again", "recovery: a silent worker is heard again"},
    {"it stayed silent", "recovery: a worker is given up"},
    {"cannot be reached", "recovery: a worker cannot be reached"},
    {"was replaced by a new process", "recovery: a worker is replaced"},
    {"begin again", "recovery: replay from row 0"},
    {"another route takes over", "recovery: another route takes over"},
    {"a frame was lost on its way", "recovery: heartbeats disagree"},
    {"a RESULT is overdue", "recovery: a RESULT is overdue"},
    {"lost the link to its next hop", "recovery: a neighbour lost its link"},
    {"the link to stage 0 went down", "recovery: the router lost its link"},
    {"did not accept frame", "recovery: a gap"},
    {"a RESULT was lost or damaged", "recovery: a gap before the router"},
    {"has forgotten", "recovery: a worker has forgotten"},
    {"cannot reach its next hop", "recovery: an edge did not come up"},
    {"fails too often", "recovery: probation"},
    {"hand-over", "recovery: hand-over"},
    {"go on apart", "recovery: suspects go on apart"},
    {"poison: ", "recovery: poison"},
    {"refused its rows", "recovery: a refused item begins again"},
    {"the route did not come up", "recovery: a route did not come up"},
};

// Each at least this often as one in a thousand seeds.
constexpr const char* kRequired[] = {
    "a RESULT item came for an ended sequence",
    "a RESULT was bad",
    "a RESULT was stale",
    "a client changed its router",
    "a client resumed",
    "a PONG told what was lost",
    "a client was gone",
    "a control message was unexpected",
    "a frame came twice",
    "a frame was fenced",
    "a frame was for another incarnation",
    "a frame was missing or damaged",
    "a header was damaged",
    "a message came after its connection broke",
    "a message was lost on the way",
    "a peer was unreachable",
    "a sequence was preempted",
    "a worker was refused",
    "an identity was taken over",
    "an item was refused",
    "error fingerprint_mismatch",
    "error poison",
    "fault: a RESULT is lost",
    "fault: a bit of a body flips",
    "fault: a bit of a header flips",
    "fault: a client dies",
    "fault: a client is cut off",
    "fault: a connection is reset",
    "fault: a connection is reset unseen",
    "fault: a frame comes twice",
    "fault: a frame is lost",
    "fault: a front connection is reset",
    "fault: a front connection is reset unseen",
    "fault: a path is cut one way",
    "fault: a path is slow",
    "fault: a request is poisonous",
    "fault: a router is killed",
    "fault: a router is stopped",
    "fault: a sampler is killed",
    "fault: a stage is killed",
    "fault: a stage loses its tables",
    "fault: a worker drains",
    "fault: a worker has a twin",
    "fault: a worker is cut off",
    "fault: a worker is slow",
    "fault: a worker is stopped",
    "fault: an edge is cut",
    "fault: an edge of a router is cut for good",
    "fault: an edge of a sampler is cut for good",
    "fault: an edge of stages is cut for good",
    "fault: control is cut, data is not",
    "fault: the frame that fills a block is lost",
    "fault: the last RESULT is lost",
    "fault: two in a row",
    "recovery: a RESULT is overdue",
    "recovery: a gap",
    "recovery: a gap before the router",
    "recovery: a neighbour lost its link",
    "recovery: a refused item begins again",
    "recovery: a route did not come up",
    "recovery: a silent worker is heard again",
    "recovery: a worker cannot be reached",
    "recovery: a worker is given up",
    "recovery: a worker is replaced",
    "recovery: a worker is silent",
    "recovery: an edge did not come up",
    "recovery: another route takes over",
    "recovery: hand-over",
    "recovery: heartbeats disagree",
    "recovery: poison",
    "recovery: probation",
    "recovery: replay from row 0",
    "recovery: suspects go on apart",
    "rows came from the prefix cache",
    "two routers on the same workers",
};

}  // namespace

void Coverage::note_log(const std::string& line) {
    for (const auto& [text, what] : kLines)
        if (line.find(text) != std::string::npos) note(what);
}

std::vector<std::string> Coverage::missing() const {
    std::vector<std::string> never;
    for (const char* what : kRequired)
        if (times(what) == 0) never.emplace_back(what);
    return never;
}

void note_router(const Router& router, Coverage& coverage) {
    const RouterCounters& counters = router.counters();
    coverage.note("tokens committed", counters.tokens_committed);
    coverage.note("a route went down", counters.routes_down);
    coverage.note("a RESULT was stale", counters.results_stale);
    coverage.note("a RESULT was bad", counters.results_bad);
    coverage.note("a RESULT was no frame", counters.result_malformed);
    coverage.note("a RESULT item came for an ended sequence", counters.results_uncommitted);
    coverage.note("a sequence was preempted", counters.preemptions);
    coverage.note("rows came from the prefix cache", counters.prefix_tokens);
    coverage.note("a client was gone", counters.clients_gone);
    const ClusterCounters& cluster = router.cluster().counters();
    coverage.note("a worker joined", cluster.workers_joined);
    coverage.note("a worker was lost", cluster.workers_lost);
    coverage.note("a control message was unexpected", cluster.ctrl_unexpected);
}

void note_worker(const wire::WorkerCounters& counters, Coverage& coverage) {
    coverage.note("frames executed", counters.frames_executed);
    coverage.note("a frame was fenced", counters.frames_fenced);
    coverage.note("a frame was for another incarnation", counters.frames_misdirected);
    coverage.note("a frame came twice", counters.frames_duplicate);
    coverage.note("a frame was missing or damaged", counters.frames_gap);
    coverage.note("a header was damaged", counters.headers_bad);
    coverage.note("a control message was of a replaced router", counters.control_bad);
}

}  // namespace chatloop::sim
