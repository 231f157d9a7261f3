// The actors' parts of the /metrics page; docs/observability.md lists every name.
#pragma once

#include <string>

#include "chatloop/router/router.hpp"
#include "chatloop/worker/worker.hpp"
#include "exposition.hpp"
#include "process_usage.hpp"

namespace chatloop::actors {

struct ProcessMetrics {
    const ProcessUsage& usage;
    const Histogram& loop_gap_s;
    TimeUs started_at = 0;
};
void add_process_metrics(Exposition& page, const ProcessMetrics& process, TimeUs now);
void add_router_metrics(Exposition& page, const Router& router);
void add_worker_metrics(Exposition& page, const std::string& name, const Worker& worker,
                        const ProcessUsage& usage);

}  // namespace chatloop::actors
