// The command line of router, stage and sampler: --config, --check, and an option for every key of
// the table (core/config.hpp) that has one.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "chatloop/core/config.hpp"

namespace CLI {
class App;
class Option;
}

namespace chatloop::actors {

class CommandLine {
public:
    CommandLine(CLI::App& app, RoleBit role);

    // The settings of file, environment and command line, or the end of the process with one line.
    Settings parse_or_exit(const std::string& actor, int argc, char** argv);
    // The same, read once more: files and environment may have changed.
    Result<Settings> resolve() const;
    bool check() const { return check_; }  // only say whether all is well

private:
    struct Entry {
        const Setting* setting;
        CLI::Option* option;
        std::vector<std::string> texts;
    };
    CLI::App& app_;
    RoleBit role_;
    std::string config_;
    bool check_ = false;
    std::deque<Entry> entries_;  // the options write to `texts`: no element moves
};

// Of the router that a stage hosts: from the file that worker.with_router names, and the
// environment. What both have to agree in comes from the stage where the file says nothing, and the
// stage's /metrics has the router, too.
Result<Settings> hosted_router_settings(const Settings& stage, const std::string& model);

// model.path, which is there. kBadFile with the key: it is no directory.
Result<std::string> model_path(const Settings& settings);
// The same of any key whose value is in a directory.
Status check_directory(const std::string& origin, const std::string& path);

// Gives the process the CPUs and the memory that it is to have, checks that they are there. Returns
// where libzmq's threads are to run: on worker.io_cpu_cores, or off the CPUs that the process is
// pinned to, if it has others. Empty: where the process runs.
Result<std::vector<int>> place_process(const Settings& settings);

// SIGHUP: the log's level is what the settings say now. Nothing else changes while a process runs;
// settings that cannot be read leave the level as it is, with a line that says so.
void reload_log_level(const CommandLine& command_line);

// metrics.bind; empty for "off".
std::string metrics_address(const Settings& settings);

// What is accepted but does not do what its user may hope.
std::vector<std::string> setting_warnings(const Settings& settings);
void print_warnings(const std::string& actor, const std::vector<std::string>& warnings);

}  // namespace chatloop::actors
