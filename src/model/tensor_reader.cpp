#include "tensor_reader.hpp"

#include "json_fields.hpp"

namespace chatloop {
namespace {

using kernel::kGroup;
using kernel::kPanelRows;
using kernel::WeightType;

std::string shape_text(Dtype dtype, const std::vector<uint64_t>& shape) {
    std::string text(dtype_name(dtype));
    text += " [";
    for (size_t i = 0; i < shape.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
    }
    return text + "]";
}

WeightType float_type(Dtype dtype) {
    if (dtype == Dtype::kF16) return WeightType::kF16;
    return dtype == Dtype::kBf16 ? WeightType::kBf16 : WeightType::kF32;
}

bool is_float(Dtype dtype) {
    return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16;
}

}  // namespace

void TensorReader::fail(const std::string& what) {
    if (error_.empty()) error_ = file_.name() + ": " + what;
}

const uint8_t* TensorReader::take(const std::string& name, Dtype dtype, const Shape& shape) {
    taken_.insert(name);
    const TensorInfo* tensor = file_.find(name);
    if (tensor == nullptr) {
        fail("tensor " + in_quotes(name) + " is missing");
        return nullptr;
    }
    if (tensor->dtype != dtype || tensor->shape != shape) {
        fail("tensor " + in_quotes(name) + " is " + shape_text(tensor->dtype, tensor->shape) +
             ", the metadata asks for " + shape_text(dtype, shape));
        return nullptr;
    }
    return tensors_.add(file_.name() + ": tensor " + in_quotes(name), file_.data(*tensor),
                        tensor->bytes, dtype);
}

const float* TensorReader::vector(const std::string& name, int32_t n) {
    return reinterpret_cast<const float*>(take(name, Dtype::kF32, {static_cast<uint64_t>(n)}));
}

const float* TensorReader::optional_vector(const std::string& name, int32_t n) {
    return file_.find(name) == nullptr ? nullptr : vector(name, n);
}

const float* TensorReader::table(const std::string& name, int32_t rows, int32_t cols) {
    const Shape shape = {static_cast<uint64_t>(rows), static_cast<uint64_t>(cols)};
    return reinterpret_cast<const float*>(take(name, Dtype::kF32, shape));
}

TensorReader::Form TensorReader::quantized_form(const std::string& name, bool q4,
                                                const FormShapes& shapes) {
    const std::string scales_name = name + ".scales";
    const TensorInfo* scales = file_.find(scales_name);
    const bool with_min = q4 && scales != nullptr && scales->shape == shapes.scales_with_min;
    Form form = {};
    form.type = !q4 ? WeightType::kQ8 : with_min ? WeightType::kQ4Min : WeightType::kQ4;
    form.values = q4 ? take(name + ".q4", Dtype::kU8, shapes.q4)
                     : take(name + ".q8", Dtype::kI8, shapes.q8);
    form.scales = reinterpret_cast<const uint16_t*>(
        take(scales_name, Dtype::kF16, with_min ? shapes.scales_with_min : shapes.scales));
    return form;
}

TensorReader::Form TensorReader::form(const std::string& name, int32_t k,
                                      const FormShapes& shapes) {
    const TensorInfo* floats = file_.find(name + ".weight");
    const bool q8 = file_.find(name + ".q8") != nullptr;
    const bool q4 = file_.find(name + ".q4") != nullptr;
    if ((floats != nullptr) + q8 + q4 != 1) {
        fail("matrix " + in_quotes(name) + " must have exactly one of .weight, .q8 and .q4");
        return {};
    }
    if (floats != nullptr) {
        const Dtype dtype = is_float(floats->dtype) ? floats->dtype : Dtype::kF32;
        Form form = {};
        form.type = float_type(dtype);
        form.values = take(name + ".weight", dtype, shapes.floats);
        return form;
    }
    if (k % kGroup != 0) {
        fail("matrix " + in_quotes(name) + " is quantized, but " + std::to_string(k) +
             " inputs are not whole groups of 32");
        return {};
    }
    return quantized_form(name, q4, shapes);
}

kernel::Matrix TensorReader::matrix(const std::string& name, int32_t n, int32_t k) {
    kernel::Matrix out;
    out.n = n;
    out.k = k;
    const auto panels = static_cast<uint64_t>(out.panels());
    const auto inputs = static_cast<uint64_t>(k);
    const uint64_t groups = inputs / kGroup;
    const Form found = form(name, k,
                            {.floats = {panels, inputs, kPanelRows},
                             .q8 = {panels, groups, 8, kPanelRows, 4},
                             .q4 = {panels, groups, 4, kPanelRows, 4},
                             .scales = {panels, groups, kPanelRows},
                             .scales_with_min = {panels, groups, 2, kPanelRows}});
    out.type = found.type;
    out.values = found.values;
    out.scales = found.scales;
    return out;
}

kernel::EmbeddingTable TensorReader::embedding(const std::string& name, int32_t vocab, int32_t k) {
    const auto rows = static_cast<uint64_t>(vocab);
    const auto inputs = static_cast<uint64_t>(k);
    const uint64_t groups = inputs / kGroup;
    const Form found = form(name, k,
                            {.floats = {rows, inputs},
                             .q8 = {rows, inputs},
                             .q4 = {rows, groups, kGroup / 2},
                             .scales = {rows, groups},
                             .scales_with_min = {rows, groups, 2}});
    kernel::EmbeddingTable out;
    out.type = found.type;
    out.vocab = vocab;
    out.k = k;
    out.values = found.values;
    out.scales = found.scales;
    return out;
}

Status TensorReader::finish(std::string_view prefix) {
    const auto& tensors = file_.header().tensors;
    for (auto at = tensors.lower_bound(prefix); at != tensors.end(); ++at) {
        if (!at->first.starts_with(prefix)) break;
        if (taken_.count(at->first) == 0) fail("unknown tensor " + in_quotes(at->first));
    }
    if (!error_.empty()) return Error{ErrorCode::kBadFile, error_};
    return Ok{};
}

}  // namespace chatloop
