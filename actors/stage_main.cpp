// chatloop-stage: parse, wire, run.
#include <CLI/CLI.hpp>

#include "worker_node.hpp"

int main(int argc, char** argv) {
    using namespace chatloop::actors;
    constexpr char kActor[] = "chatloop-stage";
    chatloop::block_signals();
    WorkerOptions options;
    options.is_stage = true;
    CLI::App app("ChatLoop's stage worker: a range of layers", kActor);
    add_worker_options(app, options);
    auto* partition = app.add_option("--partition", options.partition,
                                     "the layers of this partition of the model directory");
    app.add_option("--layers", options.layers, "FIRST:END, any range of layers instead")
        ->excludes(partition);
    app.add_flag("--with-sampler", options.with_sampler, "this process is the sampler, too");
    app.add_option("--kv-cache-mb", options.kv_cache_mb, "KV cache, MiB")
        ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 24));
    app.add_option("--max-sequences", options.max_sequences, "sequences at once")
        ->check(CLI::Range(1u, chatloop::kSlotsMax));
    app.add_flag("--poison-kv", options.poison_kv, "fill unwritten KV with NaN (for tests)");
    parse_or_exit(app, kActor, argc, argv);
    return run_worker(kActor, options);
}
