// chatloop_sim [--seeds N] [--seed S] [--break NAME] [--no-faults] [--trace]: runs N simulated
// clusters, each from its own seed; a seed that fails prints the command that replays it. --break
// plants a mistake, which must be found: meson runs each of them as a test that has to fail.
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "world.hpp"

namespace {

using namespace chatloop::sim;

constexpr int kUsageError = 99;  // a hard error for meson, in a test that should fail too

constexpr std::array<std::pair<const char*, Mistake>, 5> kMistakes{{
    {"kv-row", Mistake::kKvRow},
    {"block-alias", Mistake::kBlockAlias},
    {"batch-mate", Mistake::kBatchMate},
    {"text", Mistake::kText},
    {"matcher", Mistake::kMatcher},
}};

struct Options {
    uint64_t first = 1;
    uint64_t count = 100;
    bool cover = false;
    WorldOptions world;
};

std::optional<Options> parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--no-faults") == 0) {
            options.world.faults = false;
            continue;
        }
        if (std::strcmp(argv[i], "--trace") == 0) {
            options.world.trace = true;
            continue;
        }
        if (std::strcmp(argv[i], "--coverage") == 0) {
            options.cover = true;
            continue;
        }
        const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
        if (value == nullptr) return std::nullopt;
        if (std::strcmp(argv[i], "--seeds") == 0) {
            options.count = std::strtoull(value, nullptr, 10);
        } else if (std::strcmp(argv[i], "--seed") == 0) {
            options.first = std::strtoull(value, nullptr, 10);
            options.count = 1;
        } else if (std::strcmp(argv[i], "--from") == 0) {
            options.first = std::strtoull(value, nullptr, 10);
        } else if (std::strcmp(argv[i], "--break") == 0) {
            for (const auto& [name, mistake] : kMistakes)
                if (std::strcmp(name, value) == 0) options.world.mistake = mistake;
            if (options.world.mistake == Mistake::kNone) return std::nullopt;
        } else {
            return std::nullopt;
        }
        ++i;
    }
    return options;
}

struct Totals {
    unsigned long long failed = 0;
    unsigned long long requests = 0;
    unsigned long long steps = 0;
    unsigned long long cancelled = 0;
    chatloop::TimeUs virtual_us = 0;
    Coverage coverage;
};

// The seed that runs now, for a replay after an assertion.
char replay[512];

void print_replay(int) {
    std::printf("    replay: %s\n", replay);
    std::fflush(stdout);
    std::signal(SIGABRT, SIG_DFL);
    std::abort();
}

void run_seed(uint64_t seed, const Options& options, const char* program, Totals& totals) {
    const char* mistake = nullptr;
    for (const auto& [name, planted] : kMistakes)
        if (planted == options.world.mistake) mistake = name;
    std::snprintf(replay, sizeof replay, "%s --seed %llu%s%s%s", program,
                  static_cast<unsigned long long>(seed), options.world.faults ? "" : " --no-faults",
                  mistake != nullptr ? " --break " : "", mistake != nullptr ? mistake : "");
    World world(seed, options.world);
    world.run();
    totals.requests += world.requests();
    totals.cancelled += world.cancelled();
    totals.steps += world.steps();
    totals.virtual_us += world.virtual_us();
    totals.coverage.add(world.coverage());
    if (world.wrong().empty()) return;
    ++totals.failed;
    std::printf("seed %llu: %s\n    replay: %s\n", static_cast<unsigned long long>(seed),
                world.wrong().c_str(), replay);
}

}  // namespace

int main(int argc, char** argv) {
    const std::optional<Options> options = parse(argc, argv);
    if (!options) {
        std::printf("usage: %s [--seeds N] [--from S] [--seed S] [--break NAME] [--no-faults] "
                    "[--coverage] [--trace], NAME one of", argv[0]);
        for (const auto& [name, mistake] : kMistakes) std::printf(" %s", name);
        std::printf("\n");
        return kUsageError;
    }
    std::signal(SIGABRT, print_replay);
    Totals totals;
    for (uint64_t i = 0; i < options->count; ++i)
        run_seed(options->first + i, *options, argv[0], totals);
    if (options->cover)
        for (const auto& [what, times] : totals.coverage.all())
            std::printf("%12llu  %s\n", static_cast<unsigned long long>(times), what.c_str());
    std::printf("%llu seeds: %llu requests (%llu cancelled), %llu tokens, %llu steps, %.0f s\n",
                static_cast<unsigned long long>(options->count), totals.requests, totals.cancelled,
                static_cast<unsigned long long>(totals.coverage.times("tokens committed")),
                totals.steps, static_cast<double>(totals.virtual_us) / 1e6);
    std::printf("%llu passed, %llu failed\n",
                static_cast<unsigned long long>(options->count) - totals.failed, totals.failed);
    return totals.failed == 0 ? 0 : 1;
}
