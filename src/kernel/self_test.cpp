// The frozen case list of numerics_abi 1. Inputs are integers scaled by powers of two, exact on
// every machine; outputs are hashed as bits, every NaN as one value. A change here changes
// kSelfTestDigest, and with it what peers accept.
#include <bit>
#include <cmath>
#include <vector>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/splitmix64.hpp"
#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel {

const uint64_t kSelfTestDigest = 0x111b7451768d0575;

namespace {

class Source {
public:
    explicit Source(uint64_t seed) : state_(seed) {}

    uint64_t next() { return splitmix64(state_); }
    // In (-magnitude, magnitude), 23 bits; magnitude a power of two.
    float value(float magnitude) {
        return static_cast<float>(static_cast<int64_t>(next() >> 40) - (1 << 23)) * 0x1p-23f *
               magnitude;
    }
    std::vector<float> values(int64_t n, float magnitude) {
        std::vector<float> out(static_cast<size_t>(n));
        for (float& x : out) {
            x = value(magnitude);
        }
        return out;
    }
    // f16 bits of either sign with exponents [first, first + 8).
    uint16_t half(uint32_t exponent_first) {
        const uint64_t bits = next();
        const uint64_t exponent = exponent_first + ((bits >> 20) & 7);
        return static_cast<uint16_t>((bits & 0x83ff) | (exponent << 10));
    }

private:
    uint64_t state_;
};

// FNV-1a over 32-bit words.
class Digest {
public:
    void add(uint32_t word) {
        for (int32_t i = 0; i < 4; ++i, word >>= 8) {
            hash_ = (hash_ ^ (word & 0xff)) * 0x100000001b3;
        }
    }
    void add(const std::vector<float>& values) {
        for (const float x : values) {
            add(std::isnan(x) ? 0x7fc00000u : std::bit_cast<uint32_t>(x));
        }
    }
    template <class Integer>
    void add(const std::vector<Integer>& values) {
        for (const Integer x : values) {
            add(static_cast<uint32_t>(x));
        }
    }
    uint64_t value() const { return hash_; }

private:
    uint64_t hash_ = 0xcbf29ce484222325;
};

// 64-byte aligned bytes, as a mapped file's tensors are.
class Aligned {
public:
    explicit Aligned(size_t bytes) : lines_((bytes + 63) / 64) {}
    uint8_t* data() { return lines_.data()->bytes; }

private:
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    std::vector<Line> lines_;
};

struct Quantized {
    std::vector<int8_t> q;
    std::vector<float> d;
    std::vector<int32_t> sum;
    std::vector<float> sa;
};

Quantized quantize(const Kernels& kernels, const std::vector<float>& x, int32_t rows, int32_t k) {
    const size_t groups = x.size() / kGroup;
    Quantized out = {std::vector<int8_t>(x.size()), std::vector<float>(groups),
                     std::vector<int32_t>(groups), std::vector<float>(groups)};
    kernels.quantize({out.q.data(), out.d.data(), out.sum.data(), out.sa.data()}, x.data(), rows,
                     k);
    return out;
}

void fill_weights(uint8_t* bytes, size_t count, WeightType type, Source& source) {
    for (size_t i = 0; i + 4 <= count; i += 4) {
        uint32_t word = static_cast<uint32_t>(source.next() >> 32);
        if (type == WeightType::kF32) {
            word = std::bit_cast<uint32_t>(source.value(1.0f));
        } else if (type == WeightType::kF16) {
            word = source.half(0) | static_cast<uint32_t>(source.half(8)) << 16;
        } else if (type == WeightType::kBf16) {
            word = std::bit_cast<uint32_t>(source.value(2.0f)) & 0xffff0000u;
            word |= word >> 16;
        }
        for (int32_t b = 0; b < 4; ++b) {
            bytes[i + b] = static_cast<uint8_t>(word >> (8 * b));
        }
    }
}

size_t weight_bytes(WeightType type, size_t elements) {
    switch (type) {
        case WeightType::kF32: return elements * 4;
        case WeightType::kF16:
        case WeightType::kBf16: return elements * 2;
        case WeightType::kQ8: return elements;
        case WeightType::kQ4:
        case WeightType::kQ4Min: return elements / 2;
    }
    return 0;
}

constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kF16, WeightType::kBf16,
                                 WeightType::kQ8,  WeightType::kQ4,  WeightType::kQ4Min};

void hash_matmul(const Kernels& kernels, WeightType type, Digest& digest) {
    constexpr int32_t kRowsMax = 31;
    const int32_t n = 88;  // five and a half panels
    const int32_t k = is_quantized(type) ? 96 : 37;
    Source source(100 + static_cast<uint64_t>(type));
    const std::vector<float> x = source.values(int64_t{kRowsMax} * k, 4.0f);
    const Matrix shape = {.type = type, .n = n, .k = k};
    const size_t elements = static_cast<size_t>(shape.panels()) * kPanelRows * k;
    Aligned weights(weight_bytes(type, elements));
    fill_weights(weights.data(), weight_bytes(type, elements), type, source);
    std::vector<uint16_t> scales(elements / kGroup * 2);
    for (uint16_t& scale : scales) {
        scale = source.half(0);
    }
    Matrix w = shape;
    w.values = weights.data();
    w.scales = scales.data();
    for (const int32_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 31}) {  // every register tile
        Quantized quantized;
        if (is_quantized(type)) {
            const std::vector<float> part(x.begin(), x.begin() + rows * k);
            quantized = quantize(kernels, part, rows, k);
            digest.add(quantized.q);
            digest.add(quantized.d);
            digest.add(quantized.sum);
            digest.add(quantized.sa);
        }
        const Activations input = {rows,
                                   k,
                                   x.data(),
                                   quantized.q.data(),
                                   quantized.d.data(),
                                   quantized.sum.data(),
                                   quantized.sa.data()};
        std::vector<float> y(static_cast<size_t>(rows) * n);
        kernels.matmul(y.data(), n, w, input, 0, w.panels());
        digest.add(y);
    }
}

void hash_embed(const Kernels& kernels, WeightType type, Digest& digest) {
    constexpr int32_t kVocab = 3, kWidth = 64;
    Source source(200 + static_cast<uint64_t>(type));
    Aligned values(weight_bytes(type, kVocab * kWidth));
    fill_weights(values.data(), weight_bytes(type, kVocab * kWidth), type, source);
    std::vector<uint16_t> scales(kVocab * kWidth / kGroup * 2);
    for (uint16_t& scale : scales) {
        scale = source.half(0);
    }
    const EmbeddingTable table = {type, kVocab, kWidth, values.data(), scales.data()};
    std::vector<float> out(kWidth);
    for (int32_t id = 0; id < kVocab; ++id) {
        kernels.embed(out.data(), table, id);
        digest.add(out);
    }
}

void hash_elementwise(const Kernels& kernels, Digest& digest) {
    constexpr int32_t kRows = 2, kWidth = 149;
    Source source(300);
    const std::vector<float> x = source.values(kRows * kWidth, 8.0f);
    const std::vector<float> w = source.values(kWidth, 1.0f);
    std::vector<float> y = x;
    kernels.rms_norm(y.data(), x.data(), w.data(), kRows, kWidth, 0x1p-17f);
    digest.add(y);
    kernels.add_bias(y.data(), w.data(), kRows, kWidth);
    kernels.add(y.data(), x.data(), kRows * kWidth);
    kernels.scale(y.data(), 0x1.8p-1f, kRows * kWidth);
    digest.add(y);
    kernels.rope(y.data(), 3, 80, 74, w.data(), x.data());
    digest.add(y);

    // exp over its whole range, through its three callers.
    std::vector<float> z = source.values(997, 128.0f);
    z[0] = -0.0f;
    z[1] = -87.3f;
    z[2] = 88.3f;
    std::vector<float> out(z.size());
    kernels.swiglu(out.data(), z.data(), z.data(), static_cast<int64_t>(z.size()));
    digest.add(out);
    const float zmax = kernels.max(z.data(), static_cast<int64_t>(z.size()));
    kernels.softmax_weights(out.data(), z.data(), zmax, 0.7f, static_cast<int64_t>(z.size()));
    digest.add(out);
    out = {zmax, kernels.sum_exp(z.data(), zmax, static_cast<int64_t>(z.size()))};
    digest.add(out);
    const double log_sum = log_f64(static_cast<double>(out[1]));
    digest.add(static_cast<uint32_t>(std::bit_cast<uint64_t>(log_sum)));
    digest.add(static_cast<uint32_t>(std::bit_cast<uint64_t>(log_sum) >> 32));
    kernels.softcap(z.data(), 30.0f, static_cast<int64_t>(z.size()));
    digest.add(z);
    digest.add(kernels.all_finite(z.data(), static_cast<int64_t>(z.size())) ? 1u : 0u);
    z.back() = INFINITY;
    digest.add(kernels.all_finite(z.data(), static_cast<int64_t>(z.size())) ? 1u : 0u);
}

void hash_attention(const Kernels& kernels, KvType type, int32_t window, float cap,
                    Digest& digest) {
    constexpr int32_t kHeads = 6, kKvHeads = 2, kHeadDim = 32, kPositions = 150, kRows = 5;
    Source source(400 + static_cast<uint64_t>(window));
    const int64_t stride = kKvHeads * kv_head_bytes(type, kHeadDim);
    std::vector<uint8_t> pool(static_cast<size_t>(3 * stride), 0x7e);  // 0x7e7e is a NaN
    const KvLayer kv = {pool.data(), stride, kKvHeads, kHeadDim, type};
    const uint32_t table[] = {2, 0, 1};
    for (int32_t position = 0; position < kPositions; ++position) {
        const std::vector<float> k = source.values(kKvHeads * kHeadDim, 2.0f);
        const std::vector<float> v = source.values(kKvHeads * kHeadDim, 2.0f);
        kernels.store_kv(kv, table[position / kBlockPositions], position % kBlockPositions,
                         k.data(), v.data());
    }
    digest.add(pool);
    const std::vector<float> q = source.values(kRows * kHeads * kHeadDim, 2.0f);
    std::vector<float> out(q.size());
    for (const int32_t first : {0, 62, kPositions - kRows}) {
        kernels.attention(out.data(), q.data(), kv, table, {kHeads, kRows, first, window, cap});
        digest.add(out);
    }
}

// acc = fma(w, x, acc) keeps the low bits of the second product; a rounded product loses them.
bool is_fused(const Kernels& kernels) {
    Aligned weights(2 * kPanelRows * sizeof(float));
    auto* w = reinterpret_cast<float*>(weights.data());
    w[0] = -1.0f;
    w[kPanelRows] = 1.0f + 0x1p-12f;
    const float x[] = {1.0f + 0x1p-11f, 1.0f + 0x1p-12f};
    float y = 0.0f;
    kernels.matmul(&y, 1, {WeightType::kF32, 1, 2, w, nullptr}, {.rows = 1, .k = 2, .x = x}, 0, 1);
    return y == 0x1p-24f;
}

bool keeps_denormals(const Kernels& kernels) {
    float x[] = {0x1p-126f, 0x1p-149f};
    kernels.scale(x, 0.5f, 1);
    kernels.scale(x + 1, 1.0f, 1);
    // As bits: with DAZ every denormal would compare equal to zero, and so to any other.
    return std::bit_cast<uint32_t>(x[0]) == 0x00400000 && std::bit_cast<uint32_t>(x[1]) == 1;
}

// Ties to even, a kept subnormal, and the clamp.
bool rounds_f16(const Kernels& kernels) {
    constexpr int32_t kHeadDim = 16;
    std::vector<uint16_t> pool(2 * kBlockPositions * kHeadDim);
    std::vector<float> v(kHeadDim);
    v[0] = 1.0f + 0x1p-11f;
    v[1] = 1.0f + 0x1.8p-10f;
    v[2] = 0x1p-24f;
    v[3] = 1e6f;
    kernels.store_kv({reinterpret_cast<uint8_t*>(pool.data()), 0, 1, kHeadDim, KvType::kF16}, 0, 0,
                     v.data(), v.data());
    const uint16_t* out = pool.data() + kBlockPositions * kHeadDim;
    return out[0] == 0x3c00 && out[1] == 0x3c02 && out[2] == 0x0001 && out[3] == 0x7bff;
}

}  // namespace

uint64_t self_test(const Kernels& kernels) {
    // 0 is no digest: a machine that fails here must not be explained by a hash.
    if (!is_fused(kernels) || !keeps_denormals(kernels) || !rounds_f16(kernels)) {
        return 0;
    }
    Digest digest;
    for (const WeightType type : kTypes) {
        hash_matmul(kernels, type, digest);
        hash_embed(kernels, type, digest);
    }
    hash_elementwise(kernels, digest);
    for (const KvType type : {KvType::kF16, KvType::kInt8}) {
        hash_attention(kernels, type, 0, 0.0f, digest);
        hash_attention(kernels, type, 70, 50.0f, digest);
    }
    return digest.value();
}

}  // namespace chatloop::kernel
