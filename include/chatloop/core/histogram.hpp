// Counts of values by the upper bounds of their buckets, as Prometheus has them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace chatloop {

class Histogram {
public:
    // Ascending upper bounds (inclusive), of static storage; values above the last one have a
    // bucket of their own.
    explicit Histogram(std::span<const double> bounds)
        : bounds_(bounds), counts_(bounds.size() + 1) {}

    void add(double value) {
        const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value);
        ++counts_[static_cast<size_t>(bucket - bounds_.begin())];
        sum_ += value;
    }
    std::span<const double> bounds() const { return bounds_; }
    const std::vector<uint64_t>& counts() const { return counts_; }
    double sum() const { return sum_; }
    uint64_t count() const { return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0}); }

private:
    std::span<const double> bounds_;
    std::vector<uint64_t> counts_;
    double sum_ = 0.0;
};

inline constexpr double kLatencyBoundsMs[] = {
    1,   2,   5,   10,  15,   20,   30,   40,   50,   75,    100,   150,   200,  300,
    400, 500, 750, 1000, 1500, 2000, 3000, 5000, 7500, 10000, 20000, 30000, 60000};
// Of one frame on one hop, and of pauses of a loop.
inline constexpr double kStepBoundsS[] = {
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
    0.05,   0.075,   0.1,    0.15,  0.2,   0.3,   0.5,   1,      2,    5,     10};
// Of a whole request.
inline constexpr double kRequestBoundsS[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2,
                                             3,    5,     7.5,  10,  15,   20,  30,  45,
                                             60,   90,    120,  180, 300,  600, 1800};
inline constexpr double kRowsBounds[] = {1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256};

}  // namespace chatloop
