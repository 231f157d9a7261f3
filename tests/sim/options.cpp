#include "options.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
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

constexpr std::pair<const char*, Rule> kRules[] = {
    {"own-link", Rule::kOwnLink},
    {"ready-link", Rule::kReadyLink},
    {"ready-wait", Rule::kReadyWait},
    {"ready-generation", Rule::kReadyGeneration},
    {"late-route", Rule::kLateRoute},
    {"fence-queue", Rule::kFenceQueue},
    {"fence-unit", Rule::kFenceUnit},
    {"fence-accept", Rule::kFenceAccept},
    {"fence-repeat", Rule::kFenceRepeat},
    {"fence-credit", Rule::kFenceCredit},
    {"credit-once", Rule::kCreditOnce},
    {"frame-order", Rule::kFrameOrder},
    {"frame-once", Rule::kFrameOnce},
    {"frame-router", Rule::kFrameRouter},
    {"frame-destination", Rule::kFrameDestination},
    {"arrival-order", Rule::kArrivalOrder},
    {"result-always", Rule::kResultAlways},
    {"result-order", Rule::kResultOrder},
    {"result-router", Rule::kResultRouter},
    {"refused", Rule::kRefused},
    {"in-flight-blocks", Rule::kInFlightBlocks},
    {"item-rule", Rule::kItemRule},
    {"prefix-rows", Rule::kPrefixRows},
    {"preempt-idle", Rule::kPreemptIdle},
    {"missing", Rule::kMissing},
    {"overdue", Rule::kOverdue},
    {"two-beats", Rule::kTwoBeats},
    {"gap-report", Rule::kGapReport},
    {"link-down", Rule::kLinkDown},
    {"roll-back", Rule::kRollBack},
    {"replaced", Rule::kReplaced},
    {"forgotten", Rule::kForgotten},
    {"own-pause", Rule::kOwnPause},
    {"poison", Rule::kPoison},
    {"probation", Rule::kProbation},
    {"replaced-worker", Rule::kReplacedWorker},
    {"replaced-router", Rule::kReplacedRouter},
    {"prefix-ids", Rule::kPrefixIds},
    {"prefix-result", Rule::kPrefixResult},
    {"prefix-last", Rule::kPrefixLast},
    {"prefix-logprobs", Rule::kPrefixLogprobs},
    {"fingerprint", Rule::kFingerprint},
    {"stop-first", Rule::kStopFirst},
    {"shares", Rule::kShares},
};

// One rule, or several with commas: all names are known.
bool take_rules(std::string_view names, std::vector<Rule>& rules) {
    while (!names.empty()) {
        const std::string_view name = names.substr(0, names.find(','));
        names.remove_prefix(std::min(names.size(), name.size() + 1));
        const auto rule = std::find_if(std::begin(kRules), std::end(kRules),
                                       [&](const auto& entry) { return entry.first == name; });
        if (rule == std::end(kRules)) return false;
        rules.push_back(rule->second);
    }
    return true;
}

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
    if (std::strcmp(word, "--without") != 0) return false;
    return take_rules(value, options.without);
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        if (take_flag(argv[i], options)) continue;
        if (i + 1 == argc || !take_value(argv[i], argv[i + 1], options)) return std::nullopt;
        ++i;
    }
    if (options.count == 0) return std::nullopt;  // no number, or a run that cannot fail
    return options;
}

void print_usage(const char* program) {
    std::printf("usage: %s [--seeds N] [--from S] [--seed S] [--no-faults] [--coverage] [--trace] "
                "[--until-failure] [--break NAME] [--without RULE,...]\nNAME:", program);
    for (const auto& [name, mistake] : kMistakes) std::printf(" %s", name);
    std::printf("\nRULE (chatloop_sim_rules only):");
    for (const auto& [name, rule] : kRules) std::printf(" %s", name);
    std::printf("\n");
}

}  // namespace chatloop::sim
