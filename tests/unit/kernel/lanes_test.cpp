// Every operation of the op set, AVX2 against scalar, over all pairs (and a product's worth of
// triples) of edge values.
#include <doctest/doctest.h>

#include <cfloat>

#include "kernel/avx2/lanes.hpp"
#include "kernel/lanes/attention.hpp"
#include "kernel/lanes/matmul_float.hpp"
#include "kernel/lanes/quantize.hpp"
#include "kernel/lanes/scalar.hpp"
#include "support.hpp"

using namespace chatloop::kernel;
using chatloop::kernel::test::random_values;
using chatloop::kernel::test::same_bits;
using S = ScalarLanes;
using A = avx2::Lanes;

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

template <class V>
std::vector<float> stored(typename V::F a) {
    std::vector<float> out(kLanes);
    V::store(out.data(), a);
    return out;
}

// 16 values from `first` on, cyclically.
std::vector<float> window(size_t first) {
    std::vector<float> out(kLanes);
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] = edge_values()[(first + i) % edge_values().size()];
    }
    return out;
}

// op is called with V as a template argument and the three inputs.
template <class Op>
int32_t differences(Op op) {
    int32_t count = 0;
    for (size_t i = 0; i < edge_values().size(); i += 5) {
        for (size_t j = 0; j < edge_values().size(); ++j) {
            const std::vector<float> a = window(i), b = window(j), c = window(3 * i + 7 * j);
            count += !same_bits(op.template operator()<S>(a.data(), b.data(), c.data()),
                                op.template operator()<A>(a.data(), b.data(), c.data()));
        }
    }
    return count;
}

template <WeightType kType>
constexpr auto kMultiply = &lanes::matmul_float<S, kType>;

}  // namespace

#define CHECK_LANES(expression)                                                          \
    CHECK(differences([]<class V>(const float* pa, const float* pb, const float* pc) {   \
              const auto a = V::load(pa), b = V::load(pb), c = V::load(pc);              \
              (void)a, (void)b, (void)c;                                                 \
              return stored<V>(expression);                                              \
          }) == 0)

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

TEST_CASE("float operations") {
    CHECK_LANES(V::add(a, b));
    CHECK_LANES(V::sub(a, b));
    CHECK_LANES(V::mul(a, b));
    CHECK_LANES(V::div(a, b));
    CHECK_LANES(V::fma(a, b, c));
    CHECK_LANES(V::sqrt(a));
    CHECK_LANES(V::neg(a));
    CHECK_LANES(V::max(a, b));
    CHECK_LANES(V::min(a, b));
    CHECK_LANES(V::select_less(a, b, c, a));
    CHECK_LANES(V::set1(pa[3]));
    CHECK_LANES(V::set1(V::sum(a)));
    CHECK_LANES(V::set1(V::maximum(a)));
    CHECK_LANES(lanes::exp<V>(a));
    CHECK_LANES(lanes::softcap_of<V>(a, b));
}

TEST_CASE("select_range at every pair of bounds") {
    int32_t count = 0;
    const std::vector<float> yes = random_values(kLanes, 1.0f, 1);
    const std::vector<float> no = random_values(kLanes, 1.0f, 2);
    for (int32_t first = -70; first < 70; ++first) {
        for (int32_t end = -70; end < 70; ++end) {
            const auto s = S::select_range(first, end, S::load(yes.data()), S::load(no.data()));
            const auto a = A::select_range(first, end, A::load(yes.data()), A::load(no.data()));
            count += !same_bits(stored<S>(s), stored<A>(a));
        }
    }
    CHECK(count == 0);
}

TEST_CASE("conversions") {
    const auto narrow = []<class V>(const float* a, const float*, const float*) {
        uint16_t half[kLanes];
        V::store_f16(half, V::load(a));
        return stored<V>(V::load_f16(half));
    };
    CHECK(differences(narrow) == 0);
    const auto bits16 = []<class V>(const float* a, const float*, const float*) {
        uint16_t words[2 * kLanes];
        __builtin_memcpy(words, a, sizeof(words));
        return stored<V>(V::load_bf16(words + 3));
    };
    CHECK(differences(bits16) == 0);
    const auto rounded = []<class V>(const float* a, const float*, const float*) {
        const auto x = V::min(V::set1(1e6f), V::max(V::set1(-1e6f), V::load(a)));
        const auto finite = V::select_less(x, V::set1(2e6f), x, V::set1(0.0f));
        return stored<V>(V::to_float(V::round(finite)));
    };
    CHECK(differences(rounded) == 0);
}

TEST_CASE("integer operations") {
    CHECK_LANES(V::as_float(V::add_int(V::bits(a), V::bits(b))));
    CHECK_LANES(V::as_float(V::and_int(V::bits(a), V::bits(b))));
    CHECK_LANES(V::as_float(V::max_int(V::bits(a), V::bits(b))));
    CHECK_LANES(V::as_float(V::template shift_left<23>(V::bits(a))));
    CHECK_LANES(V::as_float(V::template shift_right<4>(V::bits(a))));
    CHECK_LANES(V::to_float(V::bits(a)));
    CHECK_LANES(V::to_float(V::set1_int(V::sum_int(V::bits(a)))));
    CHECK_LANES(V::to_float(V::set1_int(V::maximum_int(V::bits(a)))));
    const auto bytes = []<class V>(const float* a, const float*, const float*) {
        const auto* raw = reinterpret_cast<const uint8_t*>(a);
        int8_t out[kLanes];
        V::store_i8(out, V::load_i8(reinterpret_cast<const int8_t*>(raw) + 5));
        return stored<V>(V::to_float(V::add_int(V::load_i8(out), V::load_u8(raw + 21))));
    };
    CHECK(differences(bytes) == 0);
}
