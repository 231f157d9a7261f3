// The float kernels that go through memory once, over the op set V. Each is the rule of
// docs/numerics.md that its declaration in kernels.hpp names.
#pragma once

#include "chatloop/core/assert.hpp"
#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel::lanes {

// The first n of 16 lanes, 0 < n < 16; the others are zero.
template <class V>
typename V::F load_n(const float* p, int64_t n) {
    float full[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) {
        full[i] = p[i];
    }
    return V::load(full);
}

template <class V>
void store_n(float* p, typename V::F a, int64_t n) {
    float full[kLanes];
    V::store(full, a);
    for (int64_t i = 0; i < n; ++i) {
        p[i] = full[i];
    }
}

// out[i] = op(a[i], b[i]); op is on lanes, out may be a or b.
template <class V, class Op>
void map2(float* out, const float* a, const float* b, int64_t n, Op op) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        V::store(out + i, op(V::load(a + i), V::load(b + i)));
    }
    if (i < n) {
        store_n<V>(out + i, op(load_n<V>(a + i, n - i), load_n<V>(b + i, n - i)), n - i);
    }
}

template <class V, class Op>
void map1(float* out, const float* a, int64_t n, Op op) {
    map2<V>(out, a, a, n, [&](typename V::F x, typename V::F) { return op(x); });
}

// acc = op(acc, x) lane by lane; lanes beyond the last value stay as they are.
template <class V, class Op>
typename V::F reduce(typename V::F acc, const float* x, int64_t n, Op op) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        acc = op(acc, V::load(x + i));
    }
    if (i < n) {
        const typename V::F last = op(acc, load_n<V>(x + i, n - i));
        acc = V::select_range(0, static_cast<int32_t>(n - i), last, acc);
    }
    return acc;
}

// Rule 9.
template <class V>
typename V::F exp(typename V::F x) {
    using F = typename V::F;
    const F c = V::min(V::set1(88.3f), x);
    const F magic = V::set1(0x1.8p23f);
    const F z = V::fma(c, V::set1(0x1.715476p+0f), magic);
    const F n = V::sub(z, magic);
    const F b = V::fma(n, V::set1(-0x1.7f7d1cp-20f), V::fma(n, V::set1(-0x1.62e4p-1f), c));
    const F u = V::mul(b, b);
    const F high = V::fma(V::set1(0x1.0e4020p-7f), b, V::set1(0x1.573e2ep-5f));
    const F low = V::fma(V::set1(0x1.555e66p-3f), b, V::set1(0x1.fffdb6p-2f));
    const F j = V::fma(V::fma(high, u, low), u, V::mul(V::set1(0x1.ffffecp-1f), b));
    const F k = V::as_float(
        V::template shift_left<23>(V::add_int(V::bits(z), V::set1_int(127))));
    return V::select_less(x, V::set1(-87.3f), V::set1(0.0f), V::fma(k, j, k));
}

template <class V>
typename V::F softcap_of(typename V::F s, typename V::F cap) {
    const typename V::F e = exp<V>(V::mul(V::set1(2.0f), V::div(s, cap)));
    const typename V::F tail = V::div(V::set1(2.0f), V::add(e, V::set1(1.0f)));
    return V::mul(cap, V::sub(V::set1(1.0f), tail));
}

template <class V>
void add(float* x, const float* y, int64_t n) {
    map2<V>(x, x, y, n, [](auto a, auto b) { return V::add(a, b); });
}

template <class V>
void add_bias(float* y, const float* bias, int32_t rows, int32_t n) {
    for (int32_t r = 0; r < rows; ++r) {
        add<V>(y + int64_t{r} * n, bias, n);
    }
}

template <class V>
void scale(float* x, float factor, int64_t n) {
    const auto f = V::set1(factor);
    map1<V>(x, x, n, [f](auto a) { return V::mul(a, f); });
}

template <class V>
void swiglu(float* h, const float* g, const float* u, int64_t n) {
    map2<V>(h, g, u, n, [](auto gate, auto up) {
        const auto divisor = V::add(V::set1(1.0f), exp<V>(V::neg(gate)));
        return V::mul(V::div(gate, divisor), up);
    });
}

template <class V>
void softcap(float* x, float cap, int64_t n) {
    const auto c = V::set1(cap);
    map1<V>(x, x, n, [c](auto s) { return softcap_of<V>(s, c); });
}

template <class V>
float max(const float* z, int64_t n) {
    const auto start = V::set1(-__builtin_inff());
    return V::maximum(reduce<V>(start, z, n, [](auto acc, auto x) { return V::max(acc, x); }));
}

template <class V>
float sum_exp(const float* z, float zmax, int64_t n) {
    const auto top = V::set1(zmax);
    return V::sum(reduce<V>(V::set1(0.0f), z, n, [top](auto acc, auto x) {
        return V::add(acc, exp<V>(V::sub(x, top)));
    }));
}

template <class V>
void softmax_weights(float* p, const float* z, float zmax, float temperature, int64_t n) {
    const auto top = V::set1(zmax);
    const auto t = V::set1(temperature);
    map1<V>(p, z, n, [=](auto x) { return exp<V>(V::div(V::sub(x, top), t)); });
}

template <class V>
bool all_finite(const float* x, int64_t n) {
    // |x| as an integer orders like |x|, with infinity and the NaNs at the top.
    const auto amax = reduce<V>(V::set1(0.0f), x, n, [](auto acc, auto value) {
        const auto abs = V::and_int(V::bits(value), V::set1_int(0x7fffffff));
        return V::as_float(V::max_int(V::bits(acc), abs));
    });
    return V::maximum_int(V::bits(amax)) < 0x7f800000;
}

template <class V>
void rms_norm(float* y, const float* x, const float* w, int32_t rows, int32_t n, float eps) {
    for (int32_t row = 0; row < rows; ++row, x += n, y += n) {
        const auto ss = reduce<V>(V::set1(0.0f), x, n,
                                  [](auto acc, auto a) { return V::fma(a, a, acc); });
        const auto mean = V::div(V::set1(V::sum(ss)), V::set1(static_cast<float>(n)));
        const auto r = V::div(V::set1(1.0f), V::sqrt(V::add(mean, V::set1(eps))));
        map2<V>(y, x, w, n, [r](auto a, auto weight) { return V::mul(V::mul(a, r), weight); });
    }
}

template <class V>
void rope(float* x, int32_t heads, int32_t head_dim, int32_t rot_dim, const float* cos,
          const float* sin) {
    CL_ASSERT(rot_dim % 2 == 0 && rot_dim <= head_dim);
    const int32_t half = rot_dim / 2;
    const auto y0 = [](auto x0, auto x1, auto c, auto s) {
        return V::fma(x0, c, V::neg(V::mul(x1, s)));
    };
    const auto y1 = [](auto x0, auto x1, auto c, auto s) {
        return V::fma(x1, c, V::mul(x0, s));
    };
    for (int32_t h = 0; h < heads; ++h, x += head_dim) {
        int32_t i = 0;
        for (; i + kLanes <= half; i += kLanes) {
            const auto x0 = V::load(x + i), x1 = V::load(x + half + i);
            const auto c = V::load(cos + i), s = V::load(sin + i);
            V::store(x + i, y0(x0, x1, c, s));
            V::store(x + half + i, y1(x0, x1, c, s));
        }
        if (i < half) {
            const int32_t n = half - i;
            const auto x0 = load_n<V>(x + i, n), x1 = load_n<V>(x + half + i, n);
            const auto c = load_n<V>(cos + i, n), s = load_n<V>(sin + i, n);
            store_n<V>(x + i, y0(x0, x1, c, s), n);
            store_n<V>(x + half + i, y1(x0, x1, c, s), n);
        }
    }
}

}  // namespace chatloop::kernel::lanes
