// Quantized activations as a register tile of matmul reads them.
#pragma once

#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel::lanes {

// Some rows of one tile: group g of row r is number g * stride + r.
struct RowTile {
    const int8_t* q;
    const float* d;
    const int32_t* sum;
    const float* sa;
    int32_t stride;
    int32_t groups;
};

// The rows from `row` on.
static inline RowTile row_tile(const Activations& x, int32_t row) {
    const int32_t groups = x.k / kGroup;
    const int64_t at = quantized_group(x.rows, groups, row, 0);
    const auto stride = static_cast<int32_t>(quantized_group(x.rows, groups, row, 1) - at);
    return {x.q + at * kGroup, x.d + at, x.sum + at, x.sa + at, stride, groups};
}

}  // namespace chatloop::kernel::lanes
