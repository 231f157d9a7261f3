// A worker process: stage, sampler, or both, behind one PULL socket and one DEALER per router.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "chatloop/sampler/sampler.hpp"
#include "chatloop/stage/stage_worker.hpp"
#include "chatloop/worker/worker.hpp"
#include "common.hpp"
#include "node.hpp"

namespace CLI {
class App;
}

namespace chatloop::actors {

struct WorkerOptions {
    std::string model;
    std::string name;
    std::string listen;
    std::vector<std::string> routers{"tcp://127.0.0.1:7100"};
    std::string kernels = "auto";
    int32_t partition = -1;     // stage: a partition of the metadata ...
    std::string layers;         // ... or a range "first:end" of layers
    bool with_sampler = false;
    bool is_stage = false;
    uint64_t kv_cache_mb = 512;
    uint32_t max_sequences = 128;
    bool poison_kv = false;
    uint32_t drain_timeout_secs = 20;
    std::string log_level = "info";
};

void add_worker_options(CLI::App& app, WorkerOptions& options);

// Checks files and options, then runs until drained. The exit code.
int run_worker(const std::string& actor, const WorkerOptions& options);

}  // namespace chatloop::actors
