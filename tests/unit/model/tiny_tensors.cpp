#include "tiny_tensors.hpp"

#include <bit>
#include <cmath>
#include <cstring>

namespace chatloop::testing {
namespace {

using kernel::WeightType;

std::vector<uint8_t> f32_bytes(const std::vector<double>& values) {
    std::vector<uint8_t> bytes(values.size() * 4);
    for (size_t i = 0; i < values.size(); ++i) {
        const float value = static_cast<float>(values[i]);
        std::memcpy(bytes.data() + i * 4, &value, 4);
    }
    return bytes;
}

// A value that the type holds exactly, and its bytes.
double put_float(WeightType type, double value, uint8_t* at) {
    if (type == WeightType::kF32) {
        const float exact = static_cast<float>(value);
        std::memcpy(at, &exact, 4);
        return exact;
    }
    if (type == WeightType::kF16) {
        const uint16_t bits = f16_bits(value);
        std::memcpy(at, &bits, 2);
        return f16_value(bits);
    }
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value)) & 0xffff0000u;
    const uint16_t high = static_cast<uint16_t>(bits >> 16);
    std::memcpy(at, &high, 2);
    return std::bit_cast<float>(bits);
}

std::string float_dtype(WeightType type) {
    return type == WeightType::kF32 ? "F32" : type == WeightType::kF16 ? "F16" : "BF16";
}

size_t at2(int32_t r, int32_t cols, int32_t c) { return static_cast<size_t>(r * cols + c); }
uint64_t u(int32_t n) { return static_cast<uint64_t>(n); }

}  // namespace

uint64_t Random::next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double Random::uniform(double min, double max) {
    return min + (max - min) * static_cast<double>(next() >> 11) * 0x1p-53;
}

int Random::integer(int min, int max) {
    return min + static_cast<int>(next() % static_cast<uint64_t>(max - min + 1));
}

uint16_t f16_bits(double value) {
    if (value == 0.0) return 0;
    int exponent = 0;
    const double fraction = std::frexp(std::fabs(value), &exponent);  // in [0.5, 1)
    int mantissa = static_cast<int>(std::nearbyint(fraction * 2048.0));  // 1024 .. 2048
    if (mantissa == 2048) {
        mantissa = 1024;
        ++exponent;
    }
    if (exponent + 14 < 1) {  // subnormal: a multiple of 2^-24
        const int steps = static_cast<int>(std::nearbyint(std::fabs(value) * 0x1p24));
        return static_cast<uint16_t>((std::signbit(value) ? 0x8000 : 0) | steps);
    }
    const int bits = (exponent + 14) << 10 | (mantissa - 1024);
    return static_cast<uint16_t>((std::signbit(value) ? 0x8000 : 0) | bits);
}

double f16_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const int mantissa = bits & 1023;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

void TensorMaker::table(const std::string& name, const Dense& dense) {
    std::vector<uint64_t> shape = {u(dense.rows), u(dense.cols)};
    if (dense.rows == 1) shape = {u(dense.cols)};
    out_.push_back({name, "F32", shape, f32_bytes(dense.w)});
}

Dense TensorMaker::vector(const std::string& name, int32_t n, double min, double max) {
    Dense dense{1, n, {}};
    for (int32_t i = 0; i < n; ++i) {
        dense.w.push_back(static_cast<float>(random_.uniform(min, max)));
    }
    table(name, dense);
    return dense;
}

void TensorMaker::rope(int32_t positions, int32_t rot_dim, Dense& cos, Dense& sin) {
    cos = Dense{positions, rot_dim / 2, {}};
    sin = cos;
    for (int32_t p = 0; p < positions; ++p) {
        for (int32_t i = 0; i < rot_dim / 2; ++i) {
            const double angle = p * std::pow(10000.0, -2.0 * i / rot_dim);
            cos.w.push_back(static_cast<float>(std::cos(angle)));
            sin.w.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    table("rope.cos", cos);
    table("rope.sin", sin);
}

Dense TensorMaker::matrix(const std::string& name, WeightType type, int32_t n, int32_t k) {
    return kernel::is_quantized(type) ? quantized_form(name, type, n, k, true)
                                      : float_form(name, type, n, k, true);
}

Dense TensorMaker::embedding(const std::string& name, WeightType type, int32_t vocab, int32_t k) {
    return kernel::is_quantized(type) ? quantized_form(name, type, vocab, k, false)
                                      : float_form(name, type, vocab, k, false);
}

Dense TensorMaker::float_form(const std::string& name, WeightType type, int32_t n, int32_t k,
                              bool panels) {
    const int32_t panel_count = (n + 15) / 16;
    const size_t size = type == WeightType::kF32 ? 4 : 2;
    const int32_t rows = panels ? panel_count * 16 : n;
    std::vector<uint8_t> bytes(static_cast<size_t>(rows * k) * size);
    Dense dense{n, k, std::vector<double>(static_cast<size_t>(n * k))};
    const double amplitude = 1.7 / std::sqrt(k);
    for (int32_t r = 0; r < n; ++r) {
        for (int32_t c = 0; c < k; ++c) {
            const size_t at = panels ? static_cast<size_t>((r / 16 * k + c) * 16 + r % 16)
                                     : at2(r, k, c);
            dense.w[at2(r, k, c)] =
                put_float(type, random_.uniform(-amplitude, amplitude), bytes.data() + at * size);
        }
    }
    const std::vector<uint64_t> shape = panels ? std::vector<uint64_t>{u(panel_count), u(k), 16}
                                               : std::vector<uint64_t>{u(n), u(k)};
    out_.push_back({name + ".weight", float_dtype(type), shape, std::move(bytes)});
    return dense;
}

TensorMaker::Group TensorMaker::random_group(WeightType type, double amplitude) {
    const bool q8 = type == WeightType::kQ8;
    Group group = {};
    for (int& quant : group.quants) {
        quant = q8 ? random_.integer(-127, 127) : random_.integer(0, 15);
    }
    group.scale = f16_bits(amplitude * random_.uniform(0.5, 1.0) / (q8 ? 127.0 : 8.0));
    group.min = f16_bits(-8.0 * f16_value(group.scale) * random_.uniform(0.9, 1.1));
    return group;
}

Dense TensorMaker::quantized_form(const std::string& name, WeightType type, int32_t n, int32_t k,
                                  bool panels) {
    const bool q8 = type == WeightType::kQ8;
    const bool with_min = type == WeightType::kQ4Min;
    const int32_t groups = k / 32;
    const int32_t panel_count = (n + 15) / 16;
    const int32_t rows = panels ? panel_count * 16 : n;
    const int32_t width = with_min ? 2 : 1;
    std::vector<uint8_t> quants(static_cast<size_t>(rows * k) / (q8 ? 1 : 2));
    std::vector<uint16_t> scales(static_cast<size_t>(rows * groups * width));
    Dense dense{n, k, std::vector<double>(static_cast<size_t>(n * k))};
    for (int32_t r = 0; r < n; ++r) {
        for (int32_t g = 0; g < groups; ++g) {
            const Group group = random_group(type, 1.7 / std::sqrt(k));
            const int32_t p = r / 16;
            const int32_t lane = r % 16;
            const double min = with_min ? f16_value(group.min) : 0.0;
            for (int32_t i = 0; i < 32; ++i) {
                const int32_t centred = group.quants[i] - (type == WeightType::kQ4 ? 8 : 0);
                dense.w[at2(r, k, 32 * g + i)] = f16_value(group.scale) * centred + min;
                // Panel form: chunks of 4 inputs x 16 lanes; the second 16 of int4 in high nibbles.
                const int32_t j = q8 ? i : i % 16;
                const int32_t in_panel =
                    (((p * groups + g) * (q8 ? 8 : 4) + j / 4) * 16 + lane) * 4 + j % 4;
                const int32_t in_row = (r * groups + g) * (q8 ? 32 : 16) + j;
                const int shift = !q8 && i >= 16 ? 4 : 0;
                quants[static_cast<size_t>(panels ? in_panel : in_row)] |=
                    static_cast<uint8_t>(group.quants[i] << shift);
            }
            const int32_t at = panels ? (p * groups + g) * width * 16 + lane
                                      : (r * groups + g) * width;
            scales[static_cast<size_t>(at)] = group.scale;
            if (with_min) scales[static_cast<size_t>(at + (panels ? 16 : 1))] = group.min;
        }
    }
    std::vector<uint64_t> shape = {u(n), u(k)};
    if (panels && q8) shape = {u(panel_count), u(groups), 8, 16, 4};
    if (panels && !q8) shape = {u(panel_count), u(groups), 4, 16, 4};
    if (!panels && !q8) shape = {u(n), u(groups), 16};
    std::vector<uint64_t> scale_shape = {u(panels ? panel_count : n), u(groups)};
    if (with_min) scale_shape.push_back(2);
    if (panels) scale_shape.push_back(16);
    std::vector<uint8_t> scale_bytes(scales.size() * 2);
    std::memcpy(scale_bytes.data(), scales.data(), scale_bytes.size());
    out_.push_back({name + (q8 ? ".q8" : ".q4"), q8 ? "I8" : "U8", shape, std::move(quants)});
    out_.push_back({name + ".scales", "F16", scale_shape, std::move(scale_bytes)});
    return dense;
}

}  // namespace chatloop::testing
