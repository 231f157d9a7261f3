#include "kernel/avx512/lanes.hpp"
#include "lane_ops.hpp"

std::span<const chatloop::kernel::test::LaneOp> chatloop::kernel::test::avx512_lane_ops() {
    return kLaneOps<avx512::Lanes>;
}
