// Rule 2 on AVX2. A lane of 32 bits is one output: a register of weights holds 8 outputs by 4
// consecutive k, the activations' 4 bytes are broadcast against it, so nothing is summed across
// lanes. Half a panel (8 outputs) by kRows rows at a time.
#include "kernel/avx2/matmul.hpp"

#include <immintrin.h>

#include "kernel/lanes/row_tile.hpp"

namespace chatloop::kernel::avx2 {

namespace {

constexpr int32_t kHalfRows = kPanelRows / 2;
constexpr int32_t kPrefetchBytes = 2048;  // ahead in a weight stream that is read once

__m256i load(const void* p) {
    return _mm256_load_si256(static_cast<const __m256i*>(p));
}

__m256i broadcast4(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, sizeof(four));
    return _mm256_set1_epi32(four);
}

__m256 load_scales(const uint16_t* scales) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
}

void store_half(float* y, __m256 acc, int32_t n) {
    if (n >= kHalfRows) {
        _mm256_storeu_ps(y, acc);
        return;
    }
    float full[kHalfRows];
    _mm256_storeu_ps(full, acc);
    for (int32_t i = 0; i < n; ++i) {
        y[i] = full[i];
    }
}

// isum of one row over the group: 8 registers of nibbles (8 outputs x 4 k) against 32 activations.
// A maddubs is within 2 * 15 * 127, so the sum of 8 is within int16.
__m256i nibble_sum(const __m256i (&w)[8], const int8_t* q) {
    __m256i even = _mm256_maddubs_epi16(w[0], broadcast4(q));
    __m256i odd = _mm256_maddubs_epi16(w[1], broadcast4(q + 4));
    for (int32_t c = 2; c < 8; c += 2) {
        even = _mm256_add_epi16(even, _mm256_maddubs_epi16(w[c], broadcast4(q + 4 * c)));
        odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(w[c + 1], broadcast4(q + 4 * c + 4)));
    }
    return _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(1));
}

template <int kRows, bool kMinimum>
void q4_half(float* y, int64_t y_stride, const uint8_t* values, const uint16_t* scales,
             const lanes::RowTile& x, int32_t n) {
    constexpr int32_t kScaleStride = kMinimum ? 2 * kPanelRows : kPanelRows;
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256 acc[kRows];
    for (auto& lanes : acc) {
        lanes = _mm256_setzero_ps();
    }
    for (int32_t g = 0; g < x.groups; ++g) {
        __m256i w[8];
        for (int32_t c = 0; c < 4; ++c) {
            const uint8_t* line = values + g * 256 + c * 64;
            if constexpr (kRows == 1) {
                _mm_prefetch(reinterpret_cast<const char*>(line) + kPrefetchBytes, _MM_HINT_T0);
            }
            const __m256i both = load(line);
            w[c] = _mm256_and_si256(both, nibble);
            w[4 + c] = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        }
        const __m256 dw = load_scales(scales + g * kScaleStride);
        for (int32_t r = 0; r < kRows; ++r) {
            const int64_t at = int64_t{g} * x.stride + r;
            __m256i isum = nibble_sum(w, x.q + at * kGroup);
            if constexpr (!kMinimum) {
                isum = _mm256_sub_epi32(isum, _mm256_set1_epi32(8 * x.sum[at]));
            }
            const __m256 d = _mm256_mul_ps(dw, _mm256_set1_ps(x.d[at]));
            acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), d, acc[r]);
            if constexpr (kMinimum) {
                const __m256 minimum = load_scales(scales + g * kScaleStride + kPanelRows);
                acc[r] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sa[at]), acc[r]);
            }
        }
    }
    for (int32_t r = 0; r < kRows; ++r) {
        store_half(y + r * y_stride, acc[r], n);
    }
}

// maddubs takes |w| as its unsigned operand, which holds 128 for w = -128, and a with w's sign: two
// products are within 2 * 128 * 127, so they cannot saturate.
template <int kRows>
void q8_half(float* y, int64_t y_stride, const int8_t* values, const uint16_t* scales,
             const lanes::RowTile& x, int32_t n) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[kRows];
    for (auto& lanes : acc) {
        lanes = _mm256_setzero_ps();
    }
    for (int32_t g = 0; g < x.groups; ++g) {
        __m256i isum[kRows];
        for (auto& lanes : isum) {
            lanes = _mm256_setzero_si256();
        }
        for (int32_t c = 0; c < 8; ++c) {
            const int8_t* line = values + g * 512 + c * 64;
            if constexpr (kRows == 1) {
                _mm_prefetch(reinterpret_cast<const char*>(line) + kPrefetchBytes, _MM_HINT_T0);
            }
            const __m256i w = load(line);
            const __m256i abs = _mm256_abs_epi8(w);
            for (int32_t r = 0; r < kRows; ++r) {
                const int8_t* q = x.q + (int64_t{g} * x.stride + r) * kGroup + 4 * c;
                const __m256i a = _mm256_sign_epi8(broadcast4(q), w);
                const __m256i pairs = _mm256_maddubs_epi16(abs, a);
                isum[r] = _mm256_add_epi32(isum[r], _mm256_madd_epi16(pairs, ones));
            }
        }
        const __m256 dw = load_scales(scales + g * kPanelRows);
        for (int32_t r = 0; r < kRows; ++r) {
            const __m256 d = _mm256_mul_ps(dw, _mm256_set1_ps(x.d[int64_t{g} * x.stride + r]));
            acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[r]), d, acc[r]);
        }
    }
    for (int32_t r = 0; r < kRows; ++r) {
        store_half(y + r * y_stride, acc[r], n);
    }
}

struct Q8 {
    static constexpr int64_t kGroupBytes = kPanelRows * kGroup;
    static constexpr int64_t kGroupScales = kPanelRows;
    template <int kRows>
    static void half(float* y, int64_t y_stride, const uint8_t* values, const uint16_t* scales,
                     const lanes::RowTile& x, int32_t n) {
        q8_half<kRows>(y, y_stride, reinterpret_cast<const int8_t*>(values), scales, x, n);
    }
};

template <bool kMinimum>
struct Q4 {
    static constexpr int64_t kGroupBytes = kPanelRows * kGroup / 2;
    static constexpr int64_t kGroupScales = kMinimum ? 2 * kPanelRows : kPanelRows;
    template <int kRows>
    static void half(float* y, int64_t y_stride, const uint8_t* values, const uint16_t* scales,
                     const lanes::RowTile& x, int32_t n) {
        q4_half<kRows, kMinimum>(y, y_stride, values, scales, x, n);
    }
};

// Both halves of a panel for rows [row, row + kRows).
template <class Format, int kRows>
void panel_rows(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel,
                int32_t row) {
    const int32_t groups = w.k / kGroup;
    const int64_t group_first = int64_t{panel} * groups;
    const lanes::RowTile rows = lanes::row_tile(x, row);
    const auto* values = static_cast<const uint8_t*>(w.values) + group_first * Format::kGroupBytes;
    const uint16_t* scales = w.scales + group_first * Format::kGroupScales;
    for (int32_t half = 0; half < 2; ++half) {
        const int32_t n = panel * kPanelRows + half * kHalfRows;
        if (n < w.n) {
            Format::template half<kRows>(y + row * y_stride + n, y_stride, values + half * 32,
                                         scales + half * kHalfRows, rows, w.n - n);
        }
    }
}

template <class Format>
void matmul(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel_first,
            int32_t panel_end) {
    constexpr int32_t kTileRows = 4;
    for (int32_t panel = panel_first; panel < panel_end; ++panel) {
        int32_t row = 0;
        for (; row + kTileRows <= x.rows; row += kTileRows) {
            panel_rows<Format, kTileRows>(y, y_stride, w, x, panel, row);
        }
        switch (x.rows - row) {
            case 3: panel_rows<Format, 3>(y, y_stride, w, x, panel, row); break;
            case 2: panel_rows<Format, 2>(y, y_stride, w, x, panel, row); break;
            case 1: panel_rows<Format, 1>(y, y_stride, w, x, panel, row); break;
            default: break;
        }
    }
}

}  // namespace

void matmul_quantized(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                      int32_t panel_first, int32_t panel_end) {
    switch (w.type) {
        case WeightType::kQ8: return matmul<Q8>(y, y_stride, w, x, panel_first, panel_end);
        case WeightType::kQ4: return matmul<Q4<false>>(y, y_stride, w, x, panel_first, panel_end);
        default: return matmul<Q4<true>>(y, y_stride, w, x, panel_first, panel_end);
    }
}

}  // namespace chatloop::kernel::avx2
