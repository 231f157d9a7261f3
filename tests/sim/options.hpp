// The command line of chatloop_sim.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/rules.hpp"
#include "world.hpp"

namespace chatloop::sim {

struct Options {
    uint64_t first = 1;
    uint64_t count = 100;
    bool until_failure = false;
    bool show_coverage = false;
    std::string planted;           // "--break NAME" or "--without RULE", or empty
    std::vector<Rule> without;     // only where CHATLOOP_RULE_SWITCHES is set
    WorldOptions world;
};

// Nothing: they cannot be understood.
std::optional<Options> parse_options(int argc, char** argv);
void print_usage(const char* program);

}  // namespace chatloop::sim
