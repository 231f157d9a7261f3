// Rule 2 on AVX-512. A lane of 32 bits is one output: a register of weights holds a whole panel (16
// outputs) by 4 consecutive k, the activations' 4 bytes are broadcast against it. `Dot` is how 4 k
// are multiplied: with VNNI or without.
#pragma once

#include <immintrin.h>

#include "kernel/avx512/lanes.hpp"
#include "kernel/lanes/elementwise.hpp"
#include "kernel/lanes/row_tile.hpp"
#include "kernel/lanes/unrolled.hpp"

namespace chatloop::kernel::avx512 {

// Sizes are checked by the caller.
void matmul_vnni(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                 int32_t panel_first, int32_t panel_end);
void matmul_bw(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
               int32_t panel_first, int32_t panel_end);

constexpr int32_t kPrefetchBytes = 8192;  // ahead in the weights (docs/performance.md)

static inline __m512i load(const void* p) { return _mm512_load_si512(p); }

static inline __m512i broadcast4(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, sizeof(four));
    return _mm512_set1_epi32(four);
}

static inline __m512 load_scales(const uint16_t* scales) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

// A group of weights, 16 outputs by 32 k, as Dot::isum takes it.
struct Group {
    __m512i w[8];
};

// One weight format: bytes and scales of a group, and how they are unpacked.
template <WeightType kType>
struct Format {
    static constexpr bool kIsNibble = kType != WeightType::kQ8;
    static constexpr bool kHasMinimum = kType == WeightType::kQ4Min;
    static constexpr int32_t kGroupBytes = kPanelRows * kGroup / (kIsNibble ? 2 : 1);
    static constexpr int32_t kGroupScales = kHasMinimum ? 2 * kPanelRows : kPanelRows;

    template <class Dot>
    static Group unpack(const uint8_t* values) {
        Group group;
        if constexpr (kIsNibble) {
            const __m512i nibble = _mm512_set1_epi8(15);
            for (int c = 0; c < 4; ++c) {
                const __m512i both = load(values + c * 64);
                group.w[c] = _mm512_and_si512(both, nibble);
                group.w[4 + c] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
            }
        } else {
            for (int c = 0; c < 8; ++c) {
                group.w[c] = Dot::from_int8(load(values + c * 64));
            }
        }
        return group;
    }
};

template <class Dot, WeightType kType, int kRows>
void panel_tile(float* y, int64_t y_stride, const uint8_t* values, const uint16_t* scales,
                const lanes::RowTile& x, int32_t n) {
    using F = Format<kType>;
    __m512 acc[kRows];
    lanes::unrolled<kRows>(CHATLOOP_BODY(r) { acc[r] = _mm512_setzero_ps(); });
    const int8_t* q = x.q;
    const float* d = x.d;
    const float* sa = x.sa;
    const int32_t* sum = x.sum;
    for (int32_t g = 0; g < x.groups; ++g) {
        const auto* ahead = reinterpret_cast<const char*>(values) + kPrefetchBytes;
        for (int32_t at = 0; at < F::kGroupBytes; at += 64) {
            _mm_prefetch(ahead + at, _MM_HINT_T0);
        }
        const Group group = F::template unpack<Dot>(values);
        const __m512 dw = load_scales(scales);
        __m512 minimum;
        if constexpr (F::kHasMinimum) {
            minimum = load_scales(scales + kPanelRows);
        }
        lanes::unrolled<kRows>(CHATLOOP_BODY(r) {
            const __m512i isum = Dot::template isum<kType>(group, q + r * kGroup, sum[r]);
            const __m512 scale = _mm512_mul_ps(dw, _mm512_set1_ps(d[r]));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum), scale, acc[r]);
            if constexpr (F::kHasMinimum) {
                acc[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sa[r]), acc[r]);
            }
        });
        values += F::kGroupBytes;
        scales += F::kGroupScales;
        q += int64_t{x.stride} * kGroup;
        d += x.stride;
        sa += x.stride;
        sum += x.stride;
    }
    const int32_t outputs = n < kPanelRows ? n : kPanelRows;
    const auto mask = static_cast<__mmask16>((1u << outputs) - 1);
    lanes::unrolled<kRows>(CHATLOOP_BODY(r) {
        _mm512_mask_storeu_ps(y + r * y_stride, mask, acc[r]);
    });
}

template <class Dot, WeightType kType>
class Panel {
public:
    Panel(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel)
        : y_(y + panel * kPanelRows),
          y_stride_(y_stride),
          values_(static_cast<const uint8_t*>(w.values) +
                  int64_t{panel} * (w.k / kGroup) * Format<kType>::kGroupBytes),
          scales_(w.scales + int64_t{panel} * (w.k / kGroup) * Format<kType>::kGroupScales),
          x_(x),
          n_(w.n - panel * kPanelRows) {}

    // All rows, in the largest tiles that there is code for.
    void run() const {
        for (int32_t tile = 0; tile < x_.rows; tile += kTileRows) {
            int32_t row = tile;
            const int32_t end = x_.rows - tile < kTileRows ? x_.rows : tile + kTileRows;
            row = take<16>(row, end);
            row = take<12>(row, end);
            row = take<8>(row, end);
            row = take<6>(row, end);
            row = take<4>(row, end);
            row = take<3>(row, end);
            row = take<2>(row, end);
            take<1>(row, end);
        }
    }

private:
    template <int kRows>
    int32_t take(int32_t row, int32_t end) const {
        if (end - row < kRows) {
            return row;
        }
        panel_tile<Dot, kType, kRows>(y_ + row * y_stride_, y_stride_, values_, scales_,
                                      lanes::row_tile(x_, row), n_);
        return row + kRows;
    }

    float* y_;
    int64_t y_stride_;
    const uint8_t* values_;
    const uint16_t* scales_;
    const Activations& x_;
    int32_t n_;
};

template <class Dot, WeightType kType>
void matmul_type(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                 int32_t panel_first, int32_t panel_end) {
    for (int32_t panel = panel_first; panel < panel_end; ++panel) {
        Panel<Dot, kType>(y, y_stride, w, x, panel).run();
    }
}

template <class Dot>
void matmul(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel_first,
            int32_t panel_end) {
    switch (w.type) {
        case WeightType::kQ8:
            return matmul_type<Dot, WeightType::kQ8>(y, y_stride, w, x, panel_first, panel_end);
        case WeightType::kQ4:
            return matmul_type<Dot, WeightType::kQ4>(y, y_stride, w, x, panel_first, panel_end);
        default:
            return matmul_type<Dot, WeightType::kQ4Min>(y, y_stride, w, x, panel_first, panel_end);
    }
}

}  // namespace chatloop::kernel::avx512
