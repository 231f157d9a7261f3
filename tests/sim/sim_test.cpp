// chatloop_sim [--seeds N] [--seed S] [--break NAME]: runs N simulated clusters, each from its own
// seed; a seed that fails prints the command that replays it. --break plants a mistake, which must
// be found: meson runs each of them as a test that has to fail.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "world.hpp"

namespace {

using chatloop::sim::Mistake;

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
    Mistake mistake = Mistake::kNone;
};

std::optional<Options> parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; i += 2) {
        const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
        if (value == nullptr) return std::nullopt;
        if (std::strcmp(argv[i], "--seeds") == 0) {
            options.count = std::strtoull(value, nullptr, 10);
        } else if (std::strcmp(argv[i], "--seed") == 0) {
            options.first = std::strtoull(value, nullptr, 10);
            options.count = 1;
        } else if (std::strcmp(argv[i], "--break") == 0) {
            for (const auto& [name, mistake] : kMistakes)
                if (std::strcmp(name, value) == 0) options.mistake = mistake;
            if (options.mistake == Mistake::kNone) return std::nullopt;
        } else {
            return std::nullopt;
        }
    }
    return options;
}

struct Totals {
    unsigned long long failed = 0;
    unsigned long long requests = 0;
    unsigned long long tokens = 0;
    unsigned long long steps = 0;
    unsigned long long cancelled = 0;
    unsigned long long preemptions = 0;
    unsigned long long prefix_tokens = 0;
    unsigned long long evictions = 0;
};

void run_seed(uint64_t seed, Mistake mistake, const char* program, Totals& totals) {
    chatloop::sim::World world(seed, mistake);
    world.run();
    const std::string wrong = world.check();
    totals.requests += world.requests().size();
    totals.tokens += world.router().counters().tokens_committed;
    totals.steps += world.steps();
    totals.preemptions += world.router().counters().preemptions;
    totals.prefix_tokens += world.router().counters().prefix_tokens;
    totals.evictions += world.evictions();
    for (const auto& r : world.requests())
        totals.cancelled += r.done && r.done->finish_reason == "cancelled" ? 1 : 0;
    if (wrong.empty()) return;
    ++totals.failed;
    const auto number = static_cast<unsigned long long>(seed);
    std::printf("seed %llu: %s\n", number, wrong.c_str());
    std::printf("    replay: %s --seed %llu", program, number);
    for (const auto& [name, planted] : kMistakes)
        if (planted == mistake) std::printf(" --break %s", name);
    std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
    const std::optional<Options> options = parse(argc, argv);
    if (!options) {
        std::printf("usage: %s [--seeds N] [--seed S] [--break NAME], NAME one of", argv[0]);
        for (const auto& [name, mistake] : kMistakes) std::printf(" %s", name);
        std::printf("\n");
        return kUsageError;
    }
    Totals totals;
    for (uint64_t i = 0; i < options->count; ++i)
        run_seed(options->first + i, options->mistake, argv[0], totals);
    std::printf("%llu seeds: %llu requests (%llu cancelled), %llu tokens, %llu steps\n",
                static_cast<unsigned long long>(options->count), totals.requests, totals.cancelled,
                totals.tokens, totals.steps);
    std::printf("%llu preemptions, %llu rows from the prefix cache, %llu blocks evicted\n",
                totals.preemptions, totals.prefix_tokens, totals.evictions);
    std::printf("%llu passed, %llu failed\n", options->count - totals.failed, totals.failed);
    if (options->mistake != Mistake::kNone) return totals.failed > 0 ? 1 : 0;
    // A run in which one of these never happened has not tested it.
    const bool tested =
        totals.tokens > 0 &&
        (options->count == 1 || (totals.cancelled > 0 && totals.preemptions > 0 &&
                                 totals.prefix_tokens > 0 && totals.evictions > 0));
    return totals.failed == 0 && tested ? 0 : 1;
}
