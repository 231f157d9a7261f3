#include "chatloop/router/cost_model.hpp"

#include <algorithm>
#include <cmath>

#include "chatloop/core/assert.hpp"

namespace chatloop {

namespace {

// A context position and a row differ by orders of magnitude; so scaled the coefficients do not.
constexpr double kContextUnit = 1024.0;

// Before anything was measured: 1 ms for the weights, 0.2 ms for a row or an output.
constexpr double kInitialUs[] = {1000.0, 200.0, 20.0, 200.0};
constexpr double kVarianceMax = 1e8;   // of a coefficient: nothing is known
constexpr double kDrift = 1e-4;        // of a coefficient's square, per frame
constexpr double kNoise = 0.05;        // of a measured time, one standard deviation
constexpr double kNoiseMinUs = 20.0;
constexpr double kOutlier = 4.0;       // times what was predicted: the host was busy with others
constexpr double kInitialWireUs = 500.0;
constexpr double kWireWeight = 1.0 / 16;

}  // namespace

LinearCost::LinearCost() : covariance_{} {
    for (int i = 0; i < kTerms; ++i) {
        coefficients_[i] = kInitialUs[i];
        covariance_[i][i] = kVarianceMax;
    }
}

LinearCost::Vector LinearCost::features(const FrameShape& shape) {
    return {1.0, static_cast<double>(shape.rows), static_cast<double>(shape.context) / kContextUnit,
            static_cast<double>(shape.outputs)};
}

double LinearCost::predict_us(const FrameShape& shape) const {
    const Vector x = features(shape);
    double sum = 0;
    for (int i = 0; i < kTerms; ++i) sum += std::max(0.0, coefficients_[i]) * x[i];
    return sum;
}

void LinearCost::learn(const FrameShape& shape, double busy_us) {
    const bool is_first = covariance_[0][0] >= kVarianceMax;
    if (!is_first) busy_us = std::min(busy_us, kOutlier * predict_us(shape) + kNoiseMinUs);
    const Vector x = features(shape);
    Vector gain{};  // covariance * x
    double expected = 0, spread = 0;
    for (int i = 0; i < kTerms; ++i) {
        covariance_[i][i] = std::min(
            kVarianceMax, covariance_[i][i] + kDrift * coefficients_[i] * coefficients_[i]);
        for (int j = 0; j < kTerms; ++j) gain[i] += covariance_[i][j] * x[j];
        expected += coefficients_[i] * x[i];
        spread += x[i] * gain[i];
    }
    const double noise = std::max(kNoiseMinUs, kNoise * busy_us);
    const double total = spread + noise * noise;
    for (int i = 0; i < kTerms; ++i) {
        coefficients_[i] += gain[i] / total * (busy_us - expected);
        for (int j = 0; j < kTerms; ++j) covariance_[i][j] -= gain[i] * gain[j] / total;
    }
}

RouteCost::RouteCost(std::vector<uint32_t> process_of_hop)
    : process_of_hop_(std::move(process_of_hop)), wire_us_(kInitialWireUs) {
    uint32_t processes = 0;
    for (const uint32_t process : process_of_hop_) processes = std::max(processes, process + 1);
    costs_.resize(processes);
    busy_us_.resize(processes);
}

double RouteCost::slowest_us(const FrameShape& shape) const {
    double slowest = 0;
    for (const LinearCost& cost : costs_) slowest = std::max(slowest, cost.predict_us(shape));
    return slowest;
}

double RouteCost::round_us(const FrameShape& shape) const {
    double sum = wire_us_;
    for (const LinearCost& cost : costs_) sum += cost.predict_us(shape);
    return sum;
}

void RouteCost::learn(const FrameShape& shape, std::span<const wire::HopTiming> timings,
                      TimeUs took_us) {
    if (timings.size() != process_of_hop_.size()) return;
    std::fill(busy_us_.begin(), busy_us_.end(), 0.0);
    double known_us = 0;
    for (size_t hop = 0; hop < timings.size(); ++hop) {
        busy_us_[process_of_hop_[hop]] += timings[hop].busy_us;
        known_us += static_cast<double>(timings[hop].busy_us) + timings[hop].queue_us;
    }
    for (size_t process = 0; process < costs_.size(); ++process)
        costs_[process].learn(shape, busy_us_[process]);
    const double wire = std::max(0.0, static_cast<double>(took_us) - known_us);
    wire_us_ += kWireWeight * (std::min(wire, kOutlier * wire_us_ + kInitialWireUs) - wire_us_);
}

}  // namespace chatloop
