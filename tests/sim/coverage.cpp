#include "coverage.hpp"

#include <array>
#include <utility>

namespace chatloop::sim {

namespace {

// What the log says, and what that is.
constexpr std::array<std::pair<const char*, const char*>, 0> kLines{};

}  // namespace

void Coverage::note_log(const std::string& line) {
    for (const auto& [text, what] : kLines)
        if (line.find(text) != std::string::npos) note(what);
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
