#include "options.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace chatloop::sim {

namespace {

constexpr std::array<std::pair<const char*, Mistake>, 6> kMistakes{{
    {"kv-row", Mistake::kKvRow},
    {"block-alias", Mistake::kBlockAlias},
    {"batch-mate", Mistake::kBatchMate},
    {"text", Mistake::kText},
    {"crc", Mistake::kCrc},
    {"matcher", Mistake::kMatcher},
}};

constexpr std::array<std::pair<const char*, Rule>, 6> kRules{{
    {"fence", Rule::kFence},
    {"fence-credit", Rule::kFenceCredit},
    {"fence-repeat", Rule::kFenceRepeat},
    {"frame-order", Rule::kFrameOrder},
    {"missing", Rule::kMissing},
    {"roll-back", Rule::kRollBack},
}};

// False: no such option.
bool take_flag(const char* word, Options& options) {
    if (std::strcmp(word, "--no-faults") == 0) options.world.faults = false;
    else if (std::strcmp(word, "--trace") == 0) options.world.trace = true;
    else if (std::strcmp(word, "--coverage") == 0) options.show_coverage = true;
    else if (std::strcmp(word, "--until-failure") == 0) options.until_failure = true;
    else return false;
    return true;
}

bool take_value(const char* word, const char* value, Options& options) {
    if (std::strcmp(word, "--seeds") == 0) {
        options.count = std::strtoull(value, nullptr, 10);
        return true;
    }
    if (std::strcmp(word, "--from") == 0) {
        options.first = std::strtoull(value, nullptr, 10);
        return true;
    }
    if (std::strcmp(word, "--seed") == 0) {
        options.first = std::strtoull(value, nullptr, 10);
        options.count = 1;
        return true;
    }
    options.planted = std::string(" ") + word + " " + value;
    if (std::strcmp(word, "--break") == 0) {
        for (const auto& [name, mistake] : kMistakes)
            if (std::strcmp(name, value) == 0) options.world.mistake = mistake;
        return options.world.mistake != Mistake::kNone;
    }
    if (std::strcmp(word, "--without") == 0) {
        for (const auto& [name, rule] : kRules)
            if (std::strcmp(name, value) == 0) options.without = rule;
    }
    return options.without.has_value();
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        if (take_flag(argv[i], options)) continue;
        if (i + 1 == argc || !take_value(argv[i], argv[i + 1], options)) return std::nullopt;
        ++i;
    }
    return options;
}

void print_usage(const char* program) {
    std::printf("usage: %s [--seeds N] [--from S] [--seed S] [--no-faults] [--coverage] [--trace] "
                "[--until-failure] [--break NAME] [--without RULE]\nNAME:", program);
    for (const auto& [name, mistake] : kMistakes) std::printf(" %s", name);
    std::printf("\nRULE (chatloop_sim_rules only):");
    for (const auto& [name, rule] : kRules) std::printf(" %s", name);
    std::printf("\n");
}

}  // namespace chatloop::sim
