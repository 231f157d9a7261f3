// chatloop-sampler: parse, wire, run.
#include <CLI/CLI.hpp>

#include "command_line.hpp"
#include "worker_node.hpp"

int main(int argc, char** argv) {
    using namespace chatloop;
    using namespace chatloop::actors;
    constexpr char kActor[] = "chatloop-sampler";
    block_signals();
    CLI::App app("ChatLoop's sampler: final norm, head, and the next token", kActor);
    CommandLine command_line(app, kSamplerRole);
    const Settings settings = command_line.parse_or_exit(kActor, argc, argv);
    WorkerOptions options = value_or_die(kActor, worker_options(kSamplerRole, settings, ""));
    options.io_cpus = value_or_die(kActor, place_process(settings));
    options.warnings = setting_warnings(settings);
    options.reload_log = [&command_line] { reload_log_level(command_line); };
    if (command_line.check()) return check_worker(kActor, options);
    return run_worker(kActor, options);
}
