// What a frame costs: the time that each process of a route is busy with it, as
//     w + r * rows + c * context + o * outputs
// with coefficients learnt from the times that RESULTs bring. Recursive least squares whose
// coefficients may drift (a Kalman filter with a random walk: Simon, "Optimal State Estimation",
// 2006, section 5.1), so that what a load of one shape cannot tell apart stays as it was.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "chatloop/core/clock.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop {

// What of a frame costs time.
struct FrameShape {
    uint32_t rows = 0;
    uint64_t context = 0;  // positions that the rows attend to, summed
    uint32_t outputs = 0;  // rows that the head sees

    // `count` rows of one sequence from `position` on.
    void add(uint32_t position, uint32_t count) {
        rows += count;
        context += uint64_t{count} * position + uint64_t{count} * (count + 1) / 2;
    }
};

// One process.
class LinearCost {
public:
    LinearCost();
    double predict_us(const FrameShape& shape) const;  // never negative
    void learn(const FrameShape& shape, double busy_us);

private:
    static constexpr int kTerms = 4;
    using Vector = std::array<double, kTerms>;
    static Vector features(const FrameShape& shape);

    Vector coefficients_;
    std::array<Vector, kTerms> covariance_;
};

// All processes of a route, and the way between them.
class RouteCost {
public:
    // Of hops that share a process, the number of that process, counted from 0 in hop order.
    explicit RouteCost(std::vector<uint32_t> process_of_hop = {});

    uint32_t processes() const { return static_cast<uint32_t>(costs_.size()); }
    double slowest_us(const FrameShape& shape) const;
    double round_us(const FrameShape& shape) const;  // from sending to the RESULT, nobody waits
    // A RESULT; `took_us` since the frame was sent. Timings of another number of hops are ignored.
    void learn(const FrameShape& shape, std::span<const wire::HopTiming> timings, TimeUs took_us);
    double wire_us() const { return wire_us_; }  // per frame, all hops

private:
    std::vector<uint32_t> process_of_hop_;
    std::vector<LinearCost> costs_;
    std::vector<double> busy_us_;  // of one frame, by process
    double wire_us_;
};

}  // namespace chatloop
