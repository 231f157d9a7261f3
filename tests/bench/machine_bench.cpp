// What one core of this machine can do: read bandwidth by page size, streams and prefetch distance,
// and the throughput of the instructions that the kernels are made of.
//   machine_bench [--json] [--copies N] [--mib 256] [--only bandwidth|throughput]
// --copies runs N processes at once, each on a CPU of its own: what the cores reach together.
#include <immintrin.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "machine_throughput.hpp"

namespace {

constexpr int32_t kCopiesMax = 64, kCasesMax = 128, kPasses = 5;
constexpr size_t kHugePage = size_t{2} << 20, kLine = 64, kBurst = 4 * kLine;

struct Options {
    bool as_json = false;
    int32_t copies = 1;
    size_t mib = 256;
    std::string only;
};

// Written by the copies, read by the parent when they have ended.
struct Shared {
    std::atomic<int32_t> arrived;
    std::atomic<int32_t> huge_missing;
    double values[kCopiesMax][kCasesMax];
};

struct ReadCase {
    bool huge;
    int32_t streams;
    size_t ahead_bytes;
};

double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

[[noreturn]] void fail(const std::string& text) {
    std::fprintf(stderr, "machine_bench: %s\n", text.c_str());
    std::exit(64);
}

// kStreams readers side by side, a burst of lines each. Their starts are no multiple of a way of
// the L1 cache apart. Returns the bytes read; `sink` keeps the loads alive.
template <int32_t kStreams, bool kPrefetch>
__attribute__((target("avx2"))) size_t read_once(const uint8_t* data, size_t bytes, size_t ahead,
                                                 uint64_t* sink) {
    constexpr size_t kStagger = 4096 / kStreams / kLine * kLine;
    const size_t segment = bytes / kStreams;
    const size_t length = (segment - kStreams * kStagger) / kBurst * kBurst;
    __m256i all = _mm256_setzero_si256();
    for (size_t at = 0; at < length; at += kBurst) {
        for (int32_t s = 0; s < kStreams; ++s) {
            const uint8_t* p = data + s * (segment + kStagger) + at;
            for (size_t line = 0; line < kBurst; line += kLine) {
                if constexpr (kPrefetch) {
                    _mm_prefetch(reinterpret_cast<const char*>(p + line + ahead), _MM_HINT_T0);
                }
                const auto* v = reinterpret_cast<const __m256i*>(p + line);
                all = _mm256_or_si256(all, _mm256_load_si256(v));
                all = _mm256_or_si256(all, _mm256_load_si256(v + 1));
            }
        }
    }
    *sink |= static_cast<uint64_t>(_mm256_extract_epi64(all, 0));
    return length * kStreams;
}

template <int32_t kStreams>
size_t read_streams(const uint8_t* data, size_t bytes, size_t ahead, uint64_t* sink) {
    return ahead == 0 ? read_once<kStreams, false>(data, bytes, 0, sink)
                      : read_once<kStreams, true>(data, bytes, ahead, sink);
}

size_t read_buffer(const ReadCase& c, const uint8_t* data, size_t bytes, uint64_t* sink) {
    switch (c.streams) {
        case 1: return read_streams<1>(data, bytes, c.ahead_bytes, sink);
        case 2: return read_streams<2>(data, bytes, c.ahead_bytes, sink);
        case 4: return read_streams<4>(data, bytes, c.ahead_bytes, sink);
        default: return read_streams<8>(data, bytes, c.ahead_bytes, sink);
    }
}

// GB/s, the median of kPasses.
double bandwidth(const ReadCase& c, const uint8_t* data, size_t bytes) {
    uint64_t sink = 0;
    double rates[kPasses];
    read_buffer(c, data, bytes, &sink);
    for (double& rate : rates) {
        const double start_s = now_s();
        const size_t read = read_buffer(c, data, bytes, &sink);
        rate = 1e-9 * static_cast<double>(read) / (now_s() - start_s);
    }
    asm volatile("" : : "r"(sink));
    std::sort(rates, rates + kPasses);
    return rates[kPasses / 2];
}

size_t anonymous_huge_kib() {
    std::ifstream in("/proc/self/smaps_rollup");
    std::string word;
    size_t kib = 0;
    while (in >> word) {
        if (word == "AnonHugePages:") in >> kib;
    }
    return kib;
}

// Anonymous memory, written to, in pages of the asked size where the kernel gives them.
class Buffer {
public:
    Buffer(size_t bytes, bool huge) : bytes_(bytes), mapped_(bytes + 2 * kHugePage) {
        map_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map_ == MAP_FAILED) fail("no memory for the buffer; choose fewer --mib");
        const auto at = reinterpret_cast<uintptr_t>(map_);
        data_ = reinterpret_cast<uint8_t*>((at + kHugePage - 1) / kHugePage * kHugePage);
        const size_t before_kib = anonymous_huge_kib();
        // Kernels without transparent huge pages refuse the advice: then there are none.
        (void)madvise(map_, mapped_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        std::memset(data_, 1, bytes_);
        is_huge_ = (anonymous_huge_kib() - before_kib) * 1024 > bytes_ / 10 * 9;
    }
    ~Buffer() { munmap(map_, mapped_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    const uint8_t* data() const { return data_; }
    bool is_huge() const { return is_huge_; }

private:
    size_t bytes_, mapped_;
    void* map_;
    uint8_t* data_;
    bool is_huge_ = false;
};

std::vector<ReadCase> read_cases(const Options& options) {
    std::vector<ReadCase> cases;
    if (options.only == "throughput") return cases;
    for (const bool huge : {false, true}) {
        for (const int32_t streams : {1, 2, 4, 8}) {
            for (const size_t ahead : {0, 512, 1024, 2048, 4096}) {
                cases.push_back({huge, streams, ahead});
            }
        }
    }
    return cases;
}

// All copies start a case together.
void meet(Shared& shared, int32_t copies) {
    const int32_t mine = shared.arrived.fetch_add(1);
    const int32_t round_end = (mine / copies + 1) * copies;
    while (shared.arrived.load() < round_end) sched_yield();
}

void run_copy(const Options& options, int32_t copy, int32_t cpu, Shared& shared,
              const std::vector<ReadCase>& reads, const std::vector<bench::Instruction>& ops) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
    double* value = shared.values[copy];
    const size_t bytes = options.mib << 20;
    for (const bool huge : {false, true}) {
        if (reads.empty()) break;
        const Buffer buffer(bytes, huge);
        if (huge && !buffer.is_huge()) shared.huge_missing = 1;
        for (const ReadCase& c : reads) {
            if (c.huge != huge) continue;
            meet(shared, options.copies);
            *value++ = bandwidth(c, buffer.data(), bytes);
        }
    }
    for (const bench::Instruction& op : ops) {
        meet(shared, options.copies);
        *value++ = bench::instructions_per_s(op);
    }
    meet(shared, options.copies);
    *value = bench::core_clock_hz();
}

double sum(const Shared& shared, int32_t copies, size_t index) {
    double total = 0.0;
    for (int32_t i = 0; i < copies; ++i) total += shared.values[i][index];
    return total;
}

void print_read(const Options& options, const Shared& shared, const std::vector<ReadCase>& reads,
                bool huge) {
    const char* pages = huge ? "2MiB" : "4KiB";
    size_t best = reads.size();
    const auto total = [&](size_t i) { return sum(shared, options.copies, i); };
    for (size_t i = 0; i < reads.size(); ++i) {
        if (reads[i].huge != huge) continue;
        if (best == reads.size() || total(i) > total(best)) best = i;
        if (!options.as_json) {
            std::printf("read %s pages, %d streams, %4zu ahead  %8.2f GB/s\n", pages,
                        reads[i].streams, reads[i].ahead_bytes, total(i));
        }
    }
    const ReadCase& c = reads[best];
    if (!options.as_json) {
        std::printf("ROOFLINE %s pages: %.2f GB/s (%d streams, %zu ahead)", pages, total(best),
                    c.streams, c.ahead_bytes);
        for (int32_t i = 0; i < options.copies && options.copies > 1; ++i) {
            std::printf("%s%.2f", i == 0 ? " = " : " + ", shared.values[i][best]);
        }
        std::printf("\n");
        return;
    }
    std::printf("  \"read_%s\": {\"best_gb_s\": %.3f, \"streams\": %d, \"ahead_bytes\": %zu, "
                "\"all\": [", pages, total(best), c.streams, c.ahead_bytes);
    for (size_t i = 0, n = 0; i < reads.size(); ++i) {
        if (reads[i].huge != huge) continue;
        std::printf("%s\n    {\"streams\": %d, \"ahead_bytes\": %zu, \"gb_s\": %.3f}",
                    n++ == 0 ? "" : ",", reads[i].streams, reads[i].ahead_bytes, total(i));
    }
    std::printf("]},\n");
}

void print_throughput(const Options& options, const Shared& shared, size_t first,
                      const std::vector<bench::Instruction>& ops) {
    const double tsc_hz = bench::tsc_hz();
    const double clock_hz = shared.values[0][first + ops.size()];
    std::printf(options.as_json ? "  \"tsc_ghz\": %.3f,\n  \"core_ghz\": %.3f,\n"
                                  "  \"throughput\": ["
                                : "TSC %.3f GHz, core %.3f GHz (3-cycle multiplications)\n",
                1e-9 * tsc_hz, 1e-9 * clock_hz);
    for (size_t i = 0; i < ops.size(); ++i) {
        const double rate = sum(shared, options.copies, first + i);
        const double tsc = rate / tsc_hz, core = rate / clock_hz;
        const double products = 1e-9 * rate * ops[i].products;
        if (options.as_json) {
            std::printf("%s\n    {\"name\": \"%s\", \"g_instructions_s\": %.3f, \"per_tsc_cycle\": "
                        "%.3f, \"per_core_cycle\": %.3f, \"g_products_s\": %.1f}",
                        i == 0 ? "" : ",", ops[i].name, 1e-9 * rate, tsc, core, products);
        } else {
            std::printf("%-22s %7.2f G/s  %5.2f per TSC cycle  %5.2f per core cycle", ops[i].name,
                        1e-9 * rate, tsc, core);
            if (ops[i].products > 0) std::printf("  %7.1f G products/s", products);
            std::printf("\n");
        }
    }
    if (options.as_json) std::printf("],\n");
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const std::string next = i + 1 < argc ? argv[i + 1] : "";
        if (word == "--json") {
            options.as_json = true;
        } else if (word == "--copies" && std::atoi(next.c_str()) > 0) {
            options.copies = std::atoi(argv[++i]);
        } else if (word == "--mib" && std::atoi(next.c_str()) > 0) {
            options.mib = static_cast<size_t>(std::atoi(argv[++i]));
        } else if (word == "--only" && (next == "bandwidth" || next == "throughput")) {
            options.only = argv[++i];
        } else {
            fail("usage: machine_bench [--json] [--copies N] [--mib 256] "
                 "[--only bandwidth|throughput]");
        }
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    if (!__builtin_cpu_supports("avx2")) fail("this CPU has no AVX2");
    cpu_set_t allowed;
    sched_getaffinity(0, sizeof(allowed), &allowed);
    std::vector<int32_t> cpus;
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
    }
    if (options.copies > std::min<int32_t>(kCopiesMax, static_cast<int32_t>(cpus.size()))) {
        fail("more --copies than CPUs");
    }
    const std::vector<ReadCase> reads = read_cases(options);
    const std::vector<bench::Instruction> ops =
        options.only == "bandwidth" ? std::vector<bench::Instruction>() : bench::instructions();
    void* map = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                     -1, 0);
    if (map == MAP_FAILED) fail("no shared memory");
    Shared& shared = *new (map) Shared{};
    for (int32_t copy = 0; copy < options.copies; ++copy) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            run_copy(options, copy, cpus[copy], shared, reads, ops);
            _exit(0);
        }
    }
    int status = 0;
    while (wait(&status) > 0) {
        if (status != 0) fail("a copy ended early");
    }
    if (options.as_json) std::printf("{\n");
    for (const bool huge : {false, true}) {
        if (reads.empty()) break;
        if (huge && shared.huge_missing) {
            std::printf(options.as_json ? "  \"read_2MiB\": null,\n"
                                        : "2MiB pages: the kernel gives none\n");
            continue;
        }
        print_read(options, shared, reads, huge);
    }
    if (!ops.empty()) print_throughput(options, shared, reads.size(), ops);
    if (options.as_json) std::printf("  \"copies\": %d\n}\n", options.copies);
}
