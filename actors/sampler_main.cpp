// chatloop-sampler: parse, wire, run.
#include <CLI/CLI.hpp>

#include "worker_node.hpp"

int main(int argc, char** argv) {
    using namespace chatloop::actors;
    constexpr char kActor[] = "chatloop-sampler";
    chatloop::block_signals();
    WorkerOptions options;
    CLI::App app("ChatLoop's sampler: final norm, head, and the next token", kActor);
    add_worker_options(app, options);
    parse_or_exit(app, kActor, argc, argv);
    return run_worker(kActor, options);
}
