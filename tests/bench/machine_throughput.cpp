#include "machine_throughput.hpp"

#include <x86intrin.h>

#include <algorithm>
#include <chrono>

namespace bench {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// 12 destinations, more than latency x width of any CPU; sources 14 and 15. All zero: no denormals.
#define CHATLOOP_THROUGHPUT(function, text)                                                   \
    void function(uint64_t rounds, const void* cell) {                                        \
        asm volatile(                                                                         \
            ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,14,15\n"                                        \
            "vpxor %%xmm\\r, %%xmm\\r, %%xmm\\r\n"                                            \
            ".endr\n"                                                                         \
            ".p2align 5\n"                                                                    \
            "1:\n"                                                                            \
            ".rept 4\n"                                                                       \
            ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n" text "\n"                                    \
            ".endr\n"                                                                         \
            ".endr\n"                                                                         \
            "dec %0\n"                                                                        \
            "jnz 1b\n"                                                                        \
            "vzeroupper\n"                                                                    \
            : "+r"(rounds)                                                                    \
            : [cell] "r"(cell)                                                                \
            : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
              "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");                            \
    }

CHATLOOP_THROUGHPUT(maddwd_ymm, "vpmaddwd %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(maddubs_ymm, "vpmaddubsw %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(sign_ymm, "vpsignb %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(broadcast_ymm, "vpbroadcastd (%[cell]), %%ymm\\r")
CHATLOOP_THROUGHPUT(fma_ymm, "vfmadd231ps %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(add_ymm, "vpaddd %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(convert_ymm, "vcvtph2ps %%xmm15, %%ymm\\r")
CHATLOOP_THROUGHPUT(dpbusd_vex_ymm, "%{vex%} vpdpbusd %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(dpbusd_ymm, "%{evex%} vpdpbusd %%ymm15, %%ymm14, %%ymm\\r")
CHATLOOP_THROUGHPUT(dpbusd_zmm, "vpdpbusd %%zmm15, %%zmm14, %%zmm\\r")
CHATLOOP_THROUGHPUT(maddwd_zmm, "vpmaddwd %%zmm15, %%zmm14, %%zmm\\r")
CHATLOOP_THROUGHPUT(maddubs_zmm, "vpmaddubsw %%zmm15, %%zmm14, %%zmm\\r")
CHATLOOP_THROUGHPUT(fma_zmm, "vfmadd231ps %%zmm15, %%zmm14, %%zmm\\r")
CHATLOOP_THROUGHPUT(broadcast_zmm, "vpbroadcastd (%[cell]), %%zmm\\r")
CHATLOOP_THROUGHPUT(permb_zmm, "vpermb %%zmm15, %%zmm14, %%zmm\\r")

#undef CHATLOOP_THROUGHPUT

}  // namespace

std::vector<Instruction> instructions() {
    std::vector<Instruction> all = {
        {"vpmaddwd ymm", 16, maddwd_ymm},     {"vpmaddubsw ymm", 32, maddubs_ymm},
        {"vpsignb ymm", 0, sign_ymm},         {"vpbroadcastd ymm, m32", 0, broadcast_ymm},
        {"vpaddd ymm", 0, add_ymm},           {"vcvtph2ps ymm", 0, convert_ymm},
        {"vfmadd231ps ymm", 8, fma_ymm},
    };
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) {
        all.push_back({"vpdpbusd ymm", 32, dpbusd_ymm});
    } else if (__builtin_cpu_supports("avxvnni")) {
        all.push_back({"vpdpbusd ymm", 32, dpbusd_vex_ymm});
    }
    if (__builtin_cpu_supports("avx512f")) {
        all.push_back({"vfmadd231ps zmm", 16, fma_zmm});
        all.push_back({"vpbroadcastd zmm, m32", 0, broadcast_zmm});
    }
    if (__builtin_cpu_supports("avx512bw")) {
        all.push_back({"vpmaddwd zmm", 32, maddwd_zmm});
        all.push_back({"vpmaddubsw zmm", 64, maddubs_zmm});
    }
    if (__builtin_cpu_supports("avx512vnni")) all.push_back({"vpdpbusd zmm", 64, dpbusd_zmm});
    if (__builtin_cpu_supports("avx512vbmi")) all.push_back({"vpermb zmm", 0, permb_zmm});
    return all;
}

double instructions_per_s(const Instruction& instruction) {
    constexpr uint64_t kRounds = 1 << 20;
    constexpr int32_t kRuns = 5;
    alignas(64) const uint8_t cell[64] = {};
    double rates[kRuns];
    instruction.run(kRounds, cell);
    for (double& rate : rates) {
        const Clock::time_point start = Clock::now();
        instruction.run(kRounds, cell);
        rate = static_cast<double>(kRounds * kPerRound) / seconds_since(start);
    }
    std::sort(rates, rates + kRuns);
    return rates[kRuns / 2];
}

double tsc_hz() {
    const Clock::time_point start = Clock::now();
    const uint64_t first = __rdtsc();
    while (seconds_since(start) < 0.05) {
    }
    return static_cast<double>(__rdtsc() - first) / seconds_since(start);
}

double core_clock_hz() {
    constexpr uint64_t kRounds = 1 << 20;
    uint64_t rounds = kRounds, value = 3;
    const Clock::time_point start = Clock::now();
    asm volatile(
        "1:\n"
        ".rept 32\n"
        "imul %1, %1\n"
        ".endr\n"
        "dec %0\n"
        "jnz 1b\n"
        : "+r"(rounds), "+r"(value)
        :
        : "cc");
    return 3.0 * 32.0 * kRounds / seconds_since(start);
}

}  // namespace bench
