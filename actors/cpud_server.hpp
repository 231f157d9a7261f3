// chatloop-cpud as a worker of its own: the whole model in one process and one thread, served over
// HTTP (POST /execute and the router's API). Requests run strictly one after another unless
// --parallel says otherwise: to scale, more processes are started.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "chatloop/core/result.hpp"
#include "local_model.hpp"

namespace CLI {
class App;
}

namespace chatloop::actors {

struct CpudOptions {
    std::optional<uint32_t> port;  // of a worker; without it there is none
    std::string host = "127.0.0.1";
    std::string worker_id = "cpud";
    std::string callback_url;      // empty: none
    uint32_t parallel = 1;         // requests at once
    std::string api_keys_file;
    std::string log_level = "info";
};

void add_cpud_options(CLI::App& app, CpudOptions& options);

// The directory that `model` is, or that a GGUF file is split into: once, in the cache folder, by
// its sha256. kBadFile, with what the splitter said.
Result<std::string> model_directory(const std::string& model);

// Serves until SIGTERM or SIGINT and then until what runs has finished. The exit code.
int run_cpud(const std::string& actor, const CpudOptions& options, const LocalOptions& local);

}  // namespace chatloop::actors
