#include "chatloop/model/activations.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"

namespace chatloop {

using kernel::kGroup;

ActivationBuffer::ActivationBuffer(uint32_t rows_max, int32_t k_max, bool preallocate)
    : rows_max_(rows_max),
      k_max_(k_max),
      groups_(size_t{rows_max} * std::max<size_t>(static_cast<size_t>(k_max / kGroup), 1)),
      q_(size_t{rows_max} * static_cast<size_t>(k_max), preallocate),
      d_(groups_, preallocate),
      sum_(groups_, preallocate),
      sa_(groups_, preallocate) {}

uint64_t ActivationBuffer::bytes(uint32_t rows_max, int32_t k_max) {
    const uint64_t groups = static_cast<uint64_t>(k_max / kGroup);
    constexpr uint64_t kGroupBytes = 2 * sizeof(float) + sizeof(int32_t);
    return rows_max * (static_cast<uint64_t>(k_max) + groups * kGroupBytes);
}

kernel::Activations ActivationBuffer::prepare(
    const kernel::Kernels& kernels, const float* x, int32_t rows, int32_t k,
    std::initializer_list<const kernel::Matrix*> readers) {
    CL_ASSERT(static_cast<uint32_t>(rows) <= rows_max_ && k <= k_max_);
    kernel::Activations out;
    out.rows = rows;
    out.k = k;
    out.x = x;
    const bool quantize = std::any_of(readers.begin(), readers.end(), [](const auto* matrix) {
        return kernel::is_quantized(matrix->type);
    });
    if (quantize) {
        kernels.quantize({.q = q_.get(), .d = d_.get(), .sum = sum_.get(), .sa = sa_.get()}, x,
                         rows, k);
        out.q = q_.get();
        out.d = d_.get();
        out.sum = sum_.get();
        out.sa = sa_.get();
    }
    return out;
}

}  // namespace chatloop
