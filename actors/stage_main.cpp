// chatloop-stage: parse, wire, run.
#include <CLI/CLI.hpp>

#include "command_line.hpp"
#include "worker_node.hpp"

int main(int argc, char** argv) {
    using namespace chatloop;
    using namespace chatloop::actors;
    constexpr char kActor[] = "chatloop-stage";
    block_signals();
    CLI::App app("ChatLoop's stage worker: a range of layers", kActor);
    CommandLine command_line(app, kStageRole);
    std::string layers;
    std::string endpoints_file;
    bool poison_kv = false;
    app.add_option("--layers", layers, "FIRST:END, any range of layers instead of a partition");
    app.add_flag("--poison-kv", poison_kv, "fill unwritten KV with NaN (for tests)");
    app.add_option("--endpoints-file", endpoints_file,
                   "with --with-router: write the router's endpoints there as JSON");
    const Settings settings = command_line.parse_or_exit(kActor, argc, argv);
    WorkerOptions options = value_or_die(kActor, worker_options(kStageRole, settings, layers));
    options.poison_kv = poison_kv;
    options.io_cpus = value_or_die(kActor, place_process(settings));
    if (options.router) options.router->endpoints_file = endpoints_file;
    for (const std::string& warning : setting_warnings(settings))
        options.warnings.push_back(warning);
    options.reload_log = [&command_line] { reload_log_level(command_line); };
    if (command_line.check()) return check_worker(kActor, options);
    return run_worker(kActor, options);
}
