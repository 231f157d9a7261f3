// The op set over 16 logical lanes, scalar: what each operation of a backend means. The float
// kernels of lanes/ are templates over such a struct: an instruction set is one more struct.
#pragma once

#include <bit>
#include <cmath>

#include "chatloop/kernel/kernels.hpp"
#include "kernel/reference/f16.hpp"

namespace chatloop::kernel {

struct ScalarLanes {
    static constexpr int32_t kTileQueries = 5;   // of attention
    static constexpr int32_t kAccumulators = 6;  // F values that stay in registers in a loop

    struct F {
        float at[kLanes];
    };
    struct I {
        int32_t at[kLanes];
    };

    template <class Value>
    static F make(Value value) {
        F out;
        for (int32_t i = 0; i < kLanes; ++i) {
            out.at[i] = value(i);
        }
        return out;
    }
    template <class Value>
    static I make_int(Value value) {
        I out;
        for (int32_t i = 0; i < kLanes; ++i) {
            out.at[i] = value(i);
        }
        return out;
    }

    static F set1(float x) {
        return make([&](int32_t) { return x; });
    }
    static F load(const float* p) {
        return make([&](int32_t i) { return p[i]; });
    }
    static void store(float* p, F a) {
        for (int32_t i = 0; i < kLanes; ++i) {
            p[i] = a.at[i];
        }
    }
    static F load_f16(const uint16_t* p) {
        return make([&](int32_t i) { return f32_from_f16(p[i]); });
    }
    static F set1_f16(uint16_t half) { return set1(f32_from_f16(half)); }
    static F load_bf16(const uint16_t* p) {
        return make([&](int32_t i) { return f32_from_bf16(p[i]); });
    }
    static void store_f16(uint16_t* p, F a) {
        for (int32_t i = 0; i < kLanes; ++i) {
            p[i] = f16_from_f32(a.at[i]);
        }
    }

    static F add(F a, F b) {
        return make([&](int32_t i) { return a.at[i] + b.at[i]; });
    }
    static F sub(F a, F b) {
        return make([&](int32_t i) { return a.at[i] - b.at[i]; });
    }
    static F mul(F a, F b) {
        return make([&](int32_t i) { return a.at[i] * b.at[i]; });
    }
    static F div(F a, F b) {
        return make([&](int32_t i) { return a.at[i] / b.at[i]; });
    }
    static F fma(F a, F b, F c) {
        return make([&](int32_t i) { return std::fma(a.at[i], b.at[i], c.at[i]); });
    }
    static F sqrt(F a) {
        return make([&](int32_t i) { return std::sqrt(a.at[i]); });
    }
    static F neg(F a) {
        return make([&](int32_t i) { return -a.at[i]; });
    }
    static F max(F a, F b) {
        return make([&](int32_t i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static F min(F a, F b) {
        return make([&](int32_t i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
    }
    // a < b ? yes : no
    static F select_less(F a, F b, F yes, F no) {
        return make([&](int32_t i) { return a.at[i] < b.at[i] ? yes.at[i] : no.at[i]; });
    }
    // Lanes [first, end) of yes, the others of no.
    static F select_range(int32_t first, int32_t end, F yes, F no) {
        return make([&](int32_t i) { return i >= first && i < end ? yes.at[i] : no.at[i]; });
    }
    static float sum(F a) {
        for (int32_t width = kLanes / 2; width > 0; width /= 2) {
            for (int32_t i = 0; i < width; ++i) {
                a.at[i] += a.at[i + width];
            }
        }
        return a.at[0];
    }
    static float maximum(F a) {
        for (int32_t width = kLanes / 2; width > 0; width /= 2) {
            for (int32_t i = 0; i < width; ++i) {
                a.at[i] = a.at[i] > a.at[i + width] ? a.at[i] : a.at[i + width];
            }
        }
        return a.at[0];
    }

    static I set1_int(int32_t x) {
        return make_int([&](int32_t) { return x; });
    }
    static I load_int(const int32_t* p) {
        return make_int([&](int32_t i) { return p[i]; });
    }
    static I load_i8(const int8_t* p) {
        return make_int([&](int32_t i) { return int32_t{p[i]}; });
    }
    static I load_u8(const uint8_t* p) {
        return make_int([&](int32_t i) { return int32_t{p[i]}; });
    }
    // Every lane within -128..127.
    static void store_i8(int8_t* p, I a) {
        for (int32_t i = 0; i < kLanes; ++i) {
            p[i] = static_cast<int8_t>(a.at[i]);
        }
    }
    static I bits(F a) {
        return make_int([&](int32_t i) { return std::bit_cast<int32_t>(a.at[i]); });
    }
    static F as_float(I a) {
        return make([&](int32_t i) { return std::bit_cast<float>(a.at[i]); });
    }
    static F to_float(I a) {
        return make([&](int32_t i) { return static_cast<float>(a.at[i]); });
    }
    // Nearest even; |a| < 2^31.
    static I round(F a) {
        return make_int([&](int32_t i) { return static_cast<int32_t>(std::nearbyint(a.at[i])); });
    }
    static I add_int(I a, I b) {
        return make_int([&](int32_t i) { return wrap(unsigned_at(a, i) + unsigned_at(b, i)); });
    }
    static I and_int(I a, I b) {
        return make_int([&](int32_t i) { return a.at[i] & b.at[i]; });
    }
    template <int kBits>
    static I shift_left(I a) {
        return make_int([&](int32_t i) { return wrap(unsigned_at(a, i) << kBits); });
    }
    template <int kBits>
    static I shift_right(I a) {  // zeros come in
        return make_int([&](int32_t i) { return wrap(unsigned_at(a, i) >> kBits); });
    }
    static I max_int(I a, I b) {
        return make_int([&](int32_t i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static int32_t sum_int(I a) {
        uint32_t total = 0;
        for (int32_t i = 0; i < kLanes; ++i) {
            total += unsigned_at(a, i);
        }
        return wrap(total);
    }
    static int32_t maximum_int(I a) {
        int32_t out = a.at[0];
        for (int32_t i = 1; i < kLanes; ++i) {
            out = a.at[i] > out ? a.at[i] : out;
        }
        return out;
    }

private:
    static uint32_t unsigned_at(I a, int32_t i) { return static_cast<uint32_t>(a.at[i]); }
    static int32_t wrap(uint32_t x) { return static_cast<int32_t>(x); }
};

}  // namespace chatloop::kernel
