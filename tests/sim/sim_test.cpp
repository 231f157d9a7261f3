// chatloop_sim [--seeds N] [--seed S]: runs N simulated clusters, each from its own seed; a seed
// that fails prints the command that replays it.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "world.hpp"

int main(int argc, char** argv) {
    uint64_t first = 1;
    uint64_t count = 100;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::strcmp(argv[i], "--seeds") == 0) count = std::strtoull(argv[i + 1], nullptr, 10);
        if (std::strcmp(argv[i], "--seed") == 0) {
            first = std::strtoull(argv[i + 1], nullptr, 10);
            count = 1;
        }
    }
    uint64_t failed = 0;
    uint64_t requests = 0;
    uint64_t tokens = 0;
    uint64_t steps = 0;
    uint64_t cancelled = 0;
    for (uint64_t seed = first; seed < first + count; ++seed) {
        chatloop::sim::World world(seed);
        world.run();
        const std::string wrong = world.check();
        requests += world.requests().size();
        tokens += world.router().counters().tokens_committed;
        steps += world.steps();
        for (const auto& r : world.requests())
            cancelled += r.done && r.done->finish_reason == "cancelled" ? 1 : 0;
        if (wrong.empty()) continue;
        ++failed;
        std::printf("seed %llu: %s\n    replay: %s --seed %llu\n",
                    static_cast<unsigned long long>(seed), wrong.c_str(), argv[0],
                    static_cast<unsigned long long>(seed));
    }
    std::printf("%llu seeds: %llu requests (%llu cancelled), %llu tokens, %llu steps\n",
                static_cast<unsigned long long>(count), static_cast<unsigned long long>(requests),
                static_cast<unsigned long long>(cancelled), static_cast<unsigned long long>(tokens),
                static_cast<unsigned long long>(steps));
    std::printf("%llu passed, %llu failed\n", static_cast<unsigned long long>(count - failed),
                static_cast<unsigned long long>(failed));
    // Without cancels and commits the run has tested nothing.
    return failed == 0 && tokens > 0 && (count == 1 || cancelled > 0) ? 0 : 1;
}
