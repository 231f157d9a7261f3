// The op set: each backend's operations against the scalar ones.
#include <doctest/doctest.h>

#include <cfloat>

#include "kernel/lanes/attention.hpp"
#include "kernel/lanes/matmul_float.hpp"
#include "kernel/lanes/quantize.hpp"
#include "kernel/lanes/scalar.hpp"
#include "lane_ops.hpp"
#include "support.hpp"

using namespace chatloop::kernel;
using namespace chatloop::kernel::test;
using S = ScalarLanes;

namespace {

const std::vector<float>& edge_values() {
    static const std::vector<float> values = [] {
        std::vector<float> out = {
            0.0f,     1.0f,    0x1p-149f,  0x1.8p-140f, FLT_MIN,     FLT_MAX,  INFINITY, NAN,
            65504.0f, 65519.0f, 65520.0f,  0x1p-24f,    0x1p-25f,    0x1.8p-25f, 0x1p-14f, 0.5f,
            1.5f,     2.5f,    126.5f,     127.5f,      87.3f,       88.3f,    89.0f,    0x1.8p23f,
            1.0f / 3, 3.14159f, 0x1.002p+0f, 0x1.006p+0f, 1e-30f,    1e30f,
        };
        const size_t count = out.size();
        for (size_t i = 0; i < count; ++i) {
            out.push_back(-out[i]);
        }
        for (const float x : random_values(36, 100.0f, 7)) {
            out.push_back(x);
        }
        return out;  // 96: six full registers
    }();
    return values;
}

// 16 values from `first` on, cyclically.
std::vector<float> window(size_t first) {
    std::vector<float> out(kLanes);
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] = edge_values()[(first + i) % edge_values().size()];
    }
    return out;
}

// Over all pairs (and a product's worth of triples) of edge values.
int32_t differences(const LaneOp& expected, const LaneOp& op) {
    int32_t count = 0;
    for (size_t i = 0; i < edge_values().size(); i += 5) {
        for (size_t j = 0; j < edge_values().size(); ++j) {
            const std::vector<float> a = window(i), b = window(j), c = window(3 * i + 7 * j);
            std::vector<float> x(kLanes), y(kLanes);
            expected.run(x.data(), a.data(), b.data(), c.data());
            op.run(y.data(), a.data(), b.data(), c.data());
            count += !same_bits(x, y);
        }
    }
    return count;
}

template <WeightType kType>
constexpr auto kMultiply = &lanes::matmul_float<S, kType>;

}  // namespace

std::span<const LaneOp> chatloop::kernel::test::scalar_lane_ops() { return kLaneOps<S>; }

TEST_CASE("the float kernels over the scalar op set have the committed digest") {
    const Kernels kernels = {
        .name = "scalar lanes",
        .quantize = lanes::quantize<S>,
        .matmul = [](float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                     int32_t panel_first, int32_t panel_end) {
            const auto multiply = w.type == WeightType::kF32 ? kMultiply<WeightType::kF32>
                                  : w.type == WeightType::kF16 ? kMultiply<WeightType::kF16>
                                  : w.type == WeightType::kBf16 ? kMultiply<WeightType::kBf16>
                                                                : kReferenceKernels.matmul;
            multiply(y, y_stride, w, x, panel_first, panel_end);
        },
        .add_bias = lanes::add_bias<S>,
        .embed = lanes::embed<S>,
        .add = lanes::add<S>,
        .scale = lanes::scale<S>,
        .rms_norm = lanes::rms_norm<S>,
        .rope = lanes::rope<S>,
        .store_kv = lanes::store_kv<S>,
        .attention = lanes::attention<S>,
        .swiglu = lanes::swiglu<S>,
        .softcap = lanes::softcap<S>,
        .max = lanes::max<S>,
        .sum_exp = lanes::sum_exp<S>,
        .softmax_weights = lanes::softmax_weights<S>,
        .all_finite = lanes::all_finite<S>,
    };
    CHECK(self_test(kernels) == kSelfTestDigest);
}

TEST_CASE("every operation of the op set") {
    const std::span<const LaneOp> scalar = scalar_lane_ops();
    const std::string_view name = table().name;
    const std::span<const LaneOp> ops = name == "avx2" ? avx2_lane_ops() : avx512_lane_ops();
    REQUIRE(ops.size() == scalar.size());
    for (size_t i = 0; i < ops.size(); ++i) {
        CAPTURE(std::string(ops[i].name));
        CHECK(differences(scalar[i], ops[i]) == 0);
    }
}
