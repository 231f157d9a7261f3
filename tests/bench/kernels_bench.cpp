// Throughput of the kernel tables on the shapes of a 135M model: `kernels_bench [table ...]`.
// Each figure is the median of 5 runs. GMAC/s for the batch shape; GB/s of weights for one row,
// over matrices that together exceed the caches.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string_view>
#include <vector>

#include "chatloop/kernel/kernels.hpp"

using namespace chatloop::kernel;

namespace {

struct alignas(64) Line {
    uint8_t bytes[64];
};

// Of this thread's CPU time: a core shared with other processes is not the kernel's fault.
double seconds(const std::function<void()>& work) {
    const auto now_s = [] {
        timespec now;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
    };
    const double start_s = now_s();
    work();
    return now_s() - start_s;
}

double median_seconds(const std::function<void()>& work) {
    constexpr int32_t kRuns = 5;
    double times[kRuns];
    work();
    for (double& time : times) {
        time = seconds(work);
    }
    std::sort(times, times + kRuns);
    return times[kRuns / 2];
}

double bytes_per_weight(WeightType type) {
    switch (type) {
        case WeightType::kF32: return 4.0;
        case WeightType::kF16:
        case WeightType::kBf16: return 2.0;
        case WeightType::kQ8: return 1.0 + 2.0 / kGroup;
        case WeightType::kQ4: return 0.5 + 2.0 / kGroup;
        case WeightType::kQ4Min: return 0.5 + 4.0 / kGroup;
    }
    return 0.0;
}

struct Weights {
    std::vector<Line> values;
    std::vector<uint16_t> scales;
    Matrix view;

    Weights(WeightType type, int32_t n, int32_t k) {
        view = {.type = type, .n = n, .k = k};
        values.resize(static_cast<size_t>(n) * k * sizeof(float) / sizeof(Line));
        std::mt19937 generator(1);
        for (Line& line : values) {
            for (uint8_t& byte : line.bytes) {
                byte = static_cast<uint8_t>(0x38 | (generator() & 7));  // 0.0001..1 as any float
            }
        }
        scales.assign(static_cast<size_t>(n) * k / kGroup * 2, 0x1c00);
        view.values = values.data();
        view.scales = scales.data();
    }
};

struct Input {
    std::vector<float> x, d, sa;
    std::vector<int8_t> q;
    std::vector<int32_t> sum;
    Activations view;

    Input(const Kernels& kernels, int32_t rows, int32_t k) {
        const size_t n = static_cast<size_t>(rows) * k;
        x.resize(n);
        std::mt19937 generator(2);
        for (float& value : x) {
            value = static_cast<float>(generator()) * 0x1p-31f - 1.0f;
        }
        q.resize(n);
        d.resize(n / kGroup);
        sa.resize(n / kGroup);
        sum.resize(n / kGroup);
        kernels.quantize({q.data(), d.data(), sum.data(), sa.data()}, x.data(), rows, k);
        view = {rows, k, x.data(), q.data(), d.data(), sum.data(), sa.data()};
    }
};

void bench_matmul(const Kernels& kernels, WeightType type, const char* name, int32_t repeats) {
    constexpr int32_t kRows = 64, kN = 1536, kK = 576, kStreamed = 49152;
    const Weights batch(type, kN, kK);
    const Input rows(kernels, kRows, kK);
    std::vector<float> y(kRows * kN);
    const double batch_s = median_seconds([&] {
        for (int32_t i = 0; i < repeats; ++i) {
            kernels.matmul(y.data(), kN, batch.view, rows.view, 0, batch.view.panels());
        }
    }) / repeats;
    const Weights head(type, kStreamed, kK);
    const Input one(kernels, 1, kK);
    std::vector<float> logits(kStreamed);
    const double stream_s = median_seconds([&] {
        kernels.matmul(logits.data(), kStreamed, head.view, one.view, 0, head.view.panels());
    });
    std::printf("%-10s %-6s 64 x %d x %d: %7.2f GMAC/s   1 x %d x %d: %7.2f GB/s\n", kernels.name,
                name, kK, kN, 1e-9 * kRows * kN * kK / batch_s, kK, kStreamed,
                1e-9 * bytes_per_weight(type) * kStreamed * kK / stream_s);
}

void bench_attention(const Kernels& kernels, int32_t rows, int32_t repeats) {
    constexpr int32_t kHeads = 9, kKvHeads = 3, kHeadDim = 64, kPositions = 1024;
    constexpr int32_t kBlocks = kPositions / kBlockPositions;
    std::vector<uint16_t> pool(size_t{kBlocks} * kKvHeads * 2 * kBlockPositions * kHeadDim, 0x3400);
    const KvLayer kv = {reinterpret_cast<uint8_t*>(pool.data()),
                        kKvHeads * kv_head_bytes(KvType::kF16, kHeadDim), kKvHeads, kHeadDim,
                        KvType::kF16};
    std::vector<uint32_t> table(kBlocks);
    for (uint32_t b = 0; b < kBlocks; ++b) {
        table[b] = b;
    }
    const std::vector<float> q(static_cast<size_t>(rows) * kHeads * kHeadDim, 0.01f);
    std::vector<float> out(q.size());
    const AttentionShape shape = {kHeads, rows, kPositions - rows, 0, 0.0f};
    const double taken_s = median_seconds([&] {
        for (int32_t i = 0; i < repeats; ++i) {
            kernels.attention(out.data(), q.data(), kv, table.data(), shape);
        }
    }) / repeats;
    std::printf("%-10s attention of %2d rows at %d positions: %7.2f GMAC/s\n", kernels.name, rows,
                kPositions, 2e-9 * rows * kHeads * kHeadDim * kPositions / taken_s);
}

void bench_table(const Kernels& kernels, int32_t repeats) {
    bench_matmul(kernels, WeightType::kQ4, "q4", repeats);
    bench_matmul(kernels, WeightType::kQ4Min, "q4min", repeats);
    bench_matmul(kernels, WeightType::kQ8, "q8", repeats);
    bench_matmul(kernels, WeightType::kF16, "f16", repeats);
    bench_matmul(kernels, WeightType::kF32, "f32", repeats);
    bench_attention(kernels, 1, 8 * repeats);
    bench_attention(kernels, 64, repeats);
}

}  // namespace

int main(int argc, char** argv) {
    for (const char* name : {"avx512vnni", "avx512", "avx2", "reference"}) {
        const bool wanted = argc == 1 || std::any_of(argv + 1, argv + argc, [&](const char* arg) {
            return std::string_view(arg) == name;
        });
        const Kernels* kernels = find_kernels(name, cpu_features());
        if (wanted && kernels != nullptr) {
            bench_table(*kernels, std::string_view(name) == "reference" ? 1 : 20);
        }
    }
}
