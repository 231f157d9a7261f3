// Random tensors in every stored form, with their meaning in f64.
#pragma once

#include <string>
#include <vector>

#include "tiny_model.hpp"

namespace chatloop::testing {

class TensorMaker {
public:
    TensorMaker(uint64_t seed, std::vector<RawTensor>& out) : random_(seed), out_(out) {}

    Dense vector(const std::string& name, int32_t n, double min, double max);
    Dense matrix(const std::string& name, kernel::WeightType type, int32_t n, int32_t k);
    Dense embedding(const std::string& name, kernel::WeightType type, int32_t vocab, int32_t k);
    void rope(int32_t positions, int32_t rot_dim, Dense& cos, Dense& sin);

private:
    // The quants of a group of 32, its scale and minimum: w = scale * q + min.
    struct Group {
        int quants[32];  // 0..15 for both 4-bit forms
        uint16_t scale;
        uint16_t min;
    };

    Dense float_form(const std::string& name, kernel::WeightType type, int32_t n, int32_t k,
                     bool panels);
    Dense quantized_form(const std::string& name, kernel::WeightType type, int32_t n, int32_t k,
                         bool panels);
    Group random_group(kernel::WeightType type, double amplitude);
    void table(const std::string& name, const Dense& dense);

    Random random_;
    std::vector<RawTensor>& out_;
};

}  // namespace chatloop::testing
