#include "kernel/avx2/lanes.hpp"
#include "lane_ops.hpp"

std::span<const chatloop::kernel::test::LaneOp> chatloop::kernel::test::avx2_lane_ops() {
    return kLaneOps<avx2::Lanes>;
}
