// Runs simulated clusters, each from its own seed; a seed that fails prints the command that
// replays it. From kSeedsThatCover seeds on, a fault or a branch of the recovery that never
// happened fails the run too. docs/simulator.md says what is simulated.
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "options.hpp"

namespace {

using namespace chatloop::sim;

constexpr int kUsageError = 99;  // a hard error for meson, in a test that should fail too
constexpr uint64_t kSeedsThatCover = 1000;

struct Totals {
    unsigned long long seeds = 0;
    unsigned long long failed = 0;  // seeds, and what never happened
    unsigned long long passed = 0;
    unsigned long long requests = 0;
    unsigned long long steps = 0;
    unsigned long long cancelled = 0;
    chatloop::TimeUs virtual_us = 0;
    Coverage coverage;
};

// How the seed that runs now is replayed, also after an assertion.
char replay[512];

void on_abort(int) {
    std::printf("    replay: %s\n0 passed, 1 failed\n", replay);
    std::fflush(stdout);
    std::_Exit(1);
}

void run_seed(uint64_t seed, const Options& options, const char* program, Totals& totals) {
    std::snprintf(replay, sizeof replay, "%s --seed %llu%s%s", program,
                  static_cast<unsigned long long>(seed), options.world.faults ? "" : " --no-faults",
                  options.planted.c_str());
    World world(seed, options.world);
    world.run();
    ++totals.seeds;
    totals.requests += world.requests();
    totals.cancelled += world.cancelled();
    totals.steps += world.steps();
    totals.virtual_us += world.virtual_us();
    totals.coverage.add(world.coverage());
    if (world.wrong().empty()) {
        ++totals.passed;
        return;
    }
    ++totals.failed;
    std::printf("seed %llu: %s\n    replay: %s\n", static_cast<unsigned long long>(seed),
                world.wrong().c_str(), replay);
}

void report(const Options& options, Totals& totals) {
    if (options.show_coverage)
        for (const auto& [what, times] : totals.coverage.all())
            std::printf("%12llu  %s\n", static_cast<unsigned long long>(times), what.c_str());
    if (options.count >= kSeedsThatCover && options.world.faults && options.planted.empty()) {
        for (const std::string& what : totals.coverage.missing()) {
            ++totals.failed;
            std::printf("never happened: %s\n", what.c_str());
        }
    }
    std::printf("%llu seeds: %llu requests (%llu cancelled), %llu tokens, %llu steps, "
                "%.0f s of virtual time\n",
                totals.seeds, totals.requests, totals.cancelled,
                static_cast<unsigned long long>(totals.coverage.times("tokens committed")),
                totals.steps, static_cast<double>(totals.virtual_us) / 1e6);
    std::printf("%llu passed, %llu failed\n", totals.passed, totals.failed);
}

#ifdef CHATLOOP_RULE_SWITCHES
uint64_t turned_off = 0;  // a bit per rule
#endif

}  // namespace

#ifdef CHATLOOP_RULE_SWITCHES
bool chatloop::holds(Rule rule) {
    return (turned_off >> static_cast<unsigned>(rule) & 1) == 0;
}
#endif

int main(int argc, char** argv) {
    const std::optional<Options> options = parse_options(argc, argv);
    if (!options) {
        print_usage(argv[0]);
        return kUsageError;
    }
#ifdef CHATLOOP_RULE_SWITCHES
    for (const chatloop::Rule rule : options->without)
        turned_off |= uint64_t{1} << static_cast<unsigned>(rule);
#else
    if (!options->without.empty()) {
        print_usage(argv[0]);
        return kUsageError;
    }
#endif
    std::signal(SIGABRT, on_abort);
    Totals totals;
    for (uint64_t i = 0; i < options->count; ++i) {
        run_seed(options->first + i, *options, argv[0], totals);
        if (options->until_failure && totals.failed > 0) break;
    }
    report(*options, totals);
    return totals.failed == 0 ? 0 : 1;
}
