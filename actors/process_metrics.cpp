#include "log.hpp"
#include "metrics.hpp"

namespace chatloop::actors {

void add_process_metrics(Exposition& page, const ProcessMetrics& process, TimeUs now) {
    page.gauge("chatloop_uptime_seconds", "Since the process started",
               static_cast<double>(now - process.started_at) / kSecondUs);
    page.counter("process_cpu_seconds_total", "User and system CPU time",
                 static_cast<double>(process.usage.cpu_us()) / kSecondUs);
    page.gauge("process_resident_memory_bytes", "Resident memory",
               static_cast<double>(process.usage.memory_bytes()));
    page.histogram("chatloop_loop_gap_seconds",
                   "Longest time between two looks at the sockets, by turn of the loop",
                   process.loop_gap_s);
    page.counter("chatloop_log_lines_dropped_total", "Lines that the log's reader did not take",
                 static_cast<double>(log_lines_dropped()));
}

}  // namespace chatloop::actors
