// A worker process: stage, sampler, or both, behind one PULL socket and one DEALER per router.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/config.hpp"
#include "chatloop/sampler/sampler.hpp"
#include "chatloop/stage/stage_worker.hpp"
#include "chatloop/worker/worker.hpp"
#include "common.hpp"
#include "router_node.hpp"

namespace chatloop::actors {

struct WorkerOptions {
    std::string model;
    std::string name;
    std::string listen;
    std::string metrics;                  // an HTTP address; empty: none
    std::vector<std::string> routers;     // their control addresses
    std::optional<RouterOptions> router;  // of the same process, the first of them
    std::vector<BoundAddress> bound;
    std::string kernels;
    std::string kernels_origin;
    int32_t partition = -1;    // stage: a partition of the metadata, or
    std::string weights_file;  // its file (a sampler's: the head), or
    int32_t layer_first = -1;  // any range of layers, which is checked against both
    int32_t layer_end = -1;
    std::string partition_origin;  // where these were given, for errors
    std::string weights_origin;
    std::string layers_origin;
    bool with_sampler = false;
    bool is_stage = false;
    MemoryOptions memory;
    uint32_t max_sequences = 0;
    bool poison_kv = false;
    TimeUs drain_timeout_us = 0;
    std::vector<int> io_cpus;  // of libzmq's threads
    std::string log_level;
    std::string log_format;
    std::function<void()> reload_log;   // on SIGHUP
    std::vector<std::string> warnings;  // for the log
};

struct LayerRange {
    int32_t first = 0;
    int32_t end = 0;
};

// `layers` is --layers FIRST:END or empty.
Result<WorkerOptions> worker_options(RoleBit role, const Settings& settings,
                                     const std::string& layers);
// A stage's layers: those of its partition, or the range that was given.
Result<LayerRange> layer_range(const WorkerOptions& options, const ModelSpec& spec);

// Opens what would be opened to run, prints one line and ends.
int check_worker(const std::string& actor, const WorkerOptions& options);
// Checks files and options, then runs until drained. The exit code.
int run_worker(const std::string& actor, const WorkerOptions& options);

}  // namespace chatloop::actors
