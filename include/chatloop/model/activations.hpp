// Rows as the matrices read them: the float rows, and beside them their int8 form where a matrix is
// quantized (docs/numerics.md, rule 1). Quantized once per input, shared by all that read it.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/private_memory.hpp"

namespace chatloop {

class ActivationBuffer {
public:
    // Room for `rows_max` rows of at most `k_max` inputs.
    ActivationBuffer(uint32_t rows_max, int32_t k_max, bool preallocate);
    static uint64_t bytes(uint32_t rows_max, int32_t k_max);  // that it takes

    // x (rows, k) for `readers`, all with k inputs. Valid until the next call and while x is.
    kernel::Activations prepare(const kernel::Kernels& kernels, const float* x, int32_t rows,
                                int32_t k, std::initializer_list<const kernel::Matrix*> readers);

private:
    uint32_t rows_max_;
    int32_t k_max_;
    size_t groups_;         // of rows_max rows
    Scratch<int8_t> q_;     // (rows_max, k_max)
    Scratch<float> d_;      // (rows_max, k_max / 32)
    Scratch<int32_t> sum_;  // (rows_max, k_max / 32)
    Scratch<float> sa_;     // (rows_max, k_max / 32)
};

}  // namespace chatloop
