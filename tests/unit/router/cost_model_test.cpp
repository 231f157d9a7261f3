// The cost model finds the coefficients of whatever it is shown, and keeps its head.
#include "chatloop/router/cost_model.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace chatloop;

namespace {

// A stage that takes 3 ms for its weights, 0.3 ms a row and 0.1 ms per 1024 positions.
double truth_us(const FrameShape& shape) {
    return 3000.0 + 300.0 * shape.rows + 100.0 * static_cast<double>(shape.context) / 1024.0;
}

FrameShape frame(uint32_t rows, uint32_t position) {
    FrameShape shape;
    shape.add(position, rows);
    return shape;
}

bool near(double found, double wanted, double part) {
    return std::abs(found - wanted) <= part * wanted;
}

}  // namespace

TEST_CASE("rows see the positions before them and themselves") {
    FrameShape shape;
    shape.add(0, 3);    // 1 + 2 + 3
    shape.add(100, 2);  // 101 + 102
    CHECK(shape.rows == 5);
    CHECK(shape.context == 6 + 203);
}

TEST_CASE("frames of different shapes teach all coefficients") {
    LinearCost cost;
    for (int i = 0; i < 200; ++i) {
        const FrameShape shape = frame(1 + (i * 37) % 64, (i * 91) % 4000);
        cost.learn(shape, truth_us(shape));
    }
    for (const FrameShape& shape : {frame(1, 0), frame(16, 2000), frame(200, 3000)})
        CHECK(near(cost.predict_us(shape), truth_us(shape), 0.05));
}

TEST_CASE("a load of one shape is predicted well, and other shapes not absurdly") {
    LinearCost cost;
    const FrameShape steady = frame(16, 500);
    for (int i = 0; i < 1000; ++i) cost.learn(steady, truth_us(steady));
    CHECK(near(cost.predict_us(steady), truth_us(steady), 0.02));
    const double larger = cost.predict_us(frame(64, 500));
    CHECK(larger > cost.predict_us(steady));
    CHECK(larger < 8 * truth_us(frame(64, 500)));
}

TEST_CASE("it follows a machine that becomes slower, and forgives a frame that was interrupted") {
    LinearCost cost;
    const auto show = [&](double factor, int count) {
        for (int i = 0; i < count; ++i) {
            const FrameShape shape = frame(1 + (i * 37) % 64, (i * 91) % 4000);
            cost.learn(shape, factor * truth_us(shape));
        }
    };
    show(1.0, 200);
    const FrameShape probe = frame(32, 1000);
    cost.learn(probe, 1e6);  // a second: the host ran something else
    show(1.0, 20);
    CHECK(near(cost.predict_us(probe), truth_us(probe), 0.15));
    show(2.0, 1000);
    CHECK(near(cost.predict_us(probe), 2 * truth_us(probe), 0.1));
}

TEST_CASE("hops of one process cost together, and the rest of the way is the wire's") {
    RouteCost cost({0, 1, 1});
    REQUIRE(cost.processes() == 2);
    const FrameShape shape = frame(8, 0);
    const std::vector<wire::HopTiming> timings = {{50, 4000}, {100, 3000}, {0, 2000}};
    for (int i = 0; i < 300; ++i) cost.learn(shape, timings, 50 + 4000 + 100 + 5000 + 800);
    CHECK(near(cost.slowest_us(shape), 5000, 0.03));
    CHECK(near(cost.wire_us(), 800, 0.03));
    CHECK(near(cost.round_us(shape), 9800, 0.03));
    cost.learn(shape, {}, 1);  // a RESULT without timings teaches nothing
    CHECK(near(cost.round_us(shape), 9800, 0.03));
}
