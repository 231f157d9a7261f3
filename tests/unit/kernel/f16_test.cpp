#include <doctest/doctest.h>
#include <immintrin.h>

#include "support.hpp"

using namespace chatloop::kernel;
using chatloop::kernel::test::same_bits;

namespace {

uint16_t hardware_f16(float x) {
    const __m128i half = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
    return static_cast<uint16_t>(_mm_extract_epi16(half, 0));
}

bool is_nan(uint16_t half) {
    return (half & 0x7fff) > 0x7c00;
}

}  // namespace

TEST_CASE("every f16 widens as F16C does and comes back as itself") {
    int32_t differences = 0;
    for (uint32_t i = 0; i < 65536; ++i) {
        const auto half = static_cast<uint16_t>(i);
        const float x = f32_from_f16(half);
        const __m128 wide = _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int32_t>(i)));
        differences += !same_bits(x, _mm_cvtss_f32(wide));
        differences += is_nan(half) ? !is_nan(f16_from_f32(x)) : f16_from_f32(x) != half;
    }
    CHECK(differences == 0);
}

TEST_CASE("floats narrow as F16C does: around every boundary, and a sweep of all bit patterns") {
    int32_t differences = 0;
    const auto compare = [&](uint32_t bits) {
        const float x = std::bit_cast<float>(bits);
        const uint16_t ours = f16_from_f32(x), theirs = hardware_f16(x);
        differences += is_nan(theirs) ? !is_nan(ours) : ours != theirs;
    };
    for (uint32_t i = 0; i < 65536; ++i) {
        if (is_nan(static_cast<uint16_t>(i))) {
            continue;
        }
        // A half's own value, its neighbours, and the tie above it.
        const uint32_t bits = std::bit_cast<uint32_t>(f32_from_f16(static_cast<uint16_t>(i)));
        for (const uint32_t step : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0xffffffffu}) {
            compare(bits + step);
        }
    }
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 1019) {
        compare(static_cast<uint32_t>(bits));
    }
    CHECK(differences == 0);
}
