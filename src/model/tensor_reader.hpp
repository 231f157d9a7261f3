// Turns the tensors of one partition file into the views that kernels read, checking type and shape
// of each (docs/model_format.md). The first error stands; after it every view is empty.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/model/checkpoint.hpp"

namespace chatloop {

class TensorReader {
public:
    // What is read is added to `tensors`.
    TensorReader(const SafetensorsFile& file, TensorLoader& tensors)
        : file_(file), tensors_(tensors) {}

    const float* vector(const std::string& name, int32_t n);
    const float* optional_vector(const std::string& name, int32_t n);  // nullptr: there is none
    const float* table(const std::string& name, int32_t rows, int32_t cols);
    kernel::Matrix matrix(const std::string& name, int32_t n, int32_t k);
    kernel::EmbeddingTable embedding(const std::string& name, int32_t vocab, int32_t k);

    // The first error, or a tensor whose name starts with `prefix` and that nobody read.
    Status finish(std::string_view prefix);

private:
    using Shape = std::vector<uint64_t>;
    struct Form {
        kernel::WeightType type;
        const uint8_t* values;
        const uint16_t* scales;
    };
    struct FormShapes {
        Shape floats;
        Shape q8;
        Shape q4;
        Shape scales;           // of q8 and symmetric q4
        Shape scales_with_min;  // of q4 with a minimum
    };

    const uint8_t* take(const std::string& name, Dtype dtype, const Shape& shape);
    Form form(const std::string& name, int32_t k, const FormShapes& shapes);
    Form quantized_form(const std::string& name, bool q4, const FormShapes& shapes);
    void fail(const std::string& what);

    const SafetensorsFile& file_;
    TensorLoader& tensors_;
    std::set<std::string, std::less<>> taken_;
    std::string error_;  // empty: none yet
};

}  // namespace chatloop
