// The kernel table: every arithmetic step of docs/numerics.md as a plain function over caller-owned
// memory. One table per instruction set, all with the bits of kernel/reference/, which is the
// contract's transcription in scalar C++.
//
// No function allocates, throws or keeps state. Pointers need no alignment unless said; rows are
// dense (stride = width) unless said. Sizes are asserted; weights are trusted only after
// model/checkpoint has validated them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chatloop::kernel {

inline constexpr int32_t kGroup = 32;          // inputs per quantization group
inline constexpr int32_t kPanelRows = 16;      // outputs per panel
inline constexpr int32_t kBlockPositions = 64; // positions per KV block
inline constexpr int32_t kLanes = 16;          // logical lanes of a reduction
inline constexpr int32_t kHeadDimMax = 1024;
inline constexpr int32_t kTileRows = 16;       // activation rows whose groups are interleaved

enum class WeightType : uint8_t {
    kF32,
    kF16,
    kBf16,
    kQ8,     // int8, group 32, f16 scale
    kQ4,     // uint4, w = scale * (q - 8)
    kQ4Min,  // uint4, w = scale * q + min
};

constexpr bool is_quantized(WeightType type) {
    return type == WeightType::kQ8 || type == WeightType::kQ4 || type == WeightType::kQ4Min;
}

// A weight matrix (n, k) in panel layout (docs/model_format.md): a view into a mapped file.
struct Matrix {
    WeightType type = WeightType::kF32;
    int32_t n = 0;                     // outputs, unpadded
    int32_t k = 0;                     // inputs
    const void* values = nullptr;      // 64-byte aligned
    // f16 bits, 32-byte aligned; kQ4Min: 16 scales, then 16 minima, per group
    const uint16_t* scales = nullptr;

    int32_t panels() const { return (n + kPanelRows - 1) / kPanelRows; }
};

// An embedding table (vocab, k), row-major.
struct EmbeddingTable {
    WeightType type = WeightType::kF32;
    int32_t vocab = 0;
    int32_t k = 0;
    const void* values = nullptr;
    const uint16_t* scales = nullptr;
};

// Where group `g` of `row` lies among the groups of all `rows`: tiles of 16 rows one after the
// other, in a tile group by group, in a group row by row, so that a register tile of matmul is one
// stream. A single row is dense.
constexpr int64_t quantized_group(int32_t rows, int32_t groups, int32_t row, int32_t g) {
    const int32_t tile = row / kTileRows * kTileRows;
    const int32_t tile_rows = rows - tile < kTileRows ? rows - tile : kTileRows;
    return int64_t{tile} * groups + int64_t{g} * tile_rows + (row - tile);
}

// Activation rows as matmul reads them: x for float weights, the rest for quantized ones, in the
// order of quantized_group.
struct Activations {
    int32_t rows = 0;
    int32_t k = 0;
    const float* x = nullptr;      // (rows, k)
    const int8_t* q = nullptr;     // (rows * k / 32 groups, 32)
    const float* d = nullptr;      // of each group
    const int32_t* sum = nullptr;  // of each group: sum of q
    const float* sa = nullptr;     // of each group: float(sum) * d
};

struct QuantizedOut {
    int8_t* q = nullptr;
    float* d = nullptr;
    int32_t* sum = nullptr;
    float* sa = nullptr;
};

enum class KvType : uint8_t { kF16, kInt8 };

// Bytes of one kv head in one block.
//   kF16:  K transposed [head_dim][64] f16, then V [64][head_dim] f16.
//   kInt8: K [head_dim][64] int8, its scales [head_dim / 32][64] f16; then V [64][head_dim] int8,
//          its scales [64][head_dim / 32] f16. head_dim % 32 == 0.
constexpr int64_t kv_head_bytes(KvType type, int32_t head_dim) {
    const int64_t values = int64_t{2} * kBlockPositions * head_dim;
    return type == KvType::kF16 ? 2 * values : values + 2 * (values / kGroup);
}

// One layer's part of a KV pool. Block b of kv head h starts at
// base + b * block_stride + h * kv_head_bytes(type, head_dim), 64-byte aligned.
struct KvLayer {
    uint8_t* base = nullptr;
    int64_t block_stride = 0;  // bytes between blocks, at least n_kv_heads * kv_head_bytes
    int32_t n_kv_heads = 0;
    int32_t head_dim = 0;
    KvType type = KvType::kF16;
};

struct AttentionShape {
    // A multiple of n_kv_heads; query head h reads kv head h / (n_heads / n_kv_heads).
    int32_t n_heads = 0;
    int32_t rows = 0;     // consecutive positions of one sequence
    int32_t position_first = 0;
    int32_t window = 0;    // 0: all positions; else row at pos sees (pos - window, pos]
    float softcap = 0.0f;  // 0: none
};

struct Kernels {
    const char* name;  // "reference", "avx2", "avx512", "avx512vnni"

    // Rule 1. x (rows, k), k % 32 == 0; out in the order of quantized_group.
    void (*quantize)(const QuantizedOut& out, const float* x, int32_t rows, int32_t k);
    // Rules 2 and 3. y[r * y_stride + n] for every row r and every output of panels
    // [panel_first, panel_end); outputs beyond w.n are not written.
    void (*matmul)(float* y, int64_t y_stride, const Matrix& w, const Activations& x,
                   int32_t panel_first, int32_t panel_end);
    // Rule 4: y[r][i] += bias[i].
    void (*add_bias)(float* y, const float* bias, int32_t rows, int32_t n);
    // Rule 4: out (k) = row `id` of the table, dequantized (kQ4Min: fma(d, q, min)).
    void (*embed)(float* out, const EmbeddingTable& table, int32_t id);
    // Rule 4: x[i] = x[i] + y[i].
    void (*add)(float* x, const float* y, int64_t n);
    // Rule 4: x[i] = x[i] * factor.
    void (*scale)(float* x, float factor, int64_t n);
    // Rule 5. y (rows, n) from x (rows, n); w (n). y may be x.
    void (*rms_norm)(float* y, const float* x, const float* w, int32_t rows, int32_t n, float eps);
    // Rule 6, in place on one row of heads x (heads, head_dim); cos, sin (rot_dim / 2).
    void (*rope)(float* x, int32_t heads, int32_t head_dim, int32_t rot_dim, const float* cos,
                 const float* sin);
    // Rule 7. Writes one position: k and v (n_kv_heads, head_dim) into `block` at `offset` 0..63.
    void (*store_kv)(const KvLayer& kv, uint32_t block, int32_t offset, const float* k,
                     const float* v);
    // Rule 8. out, q (rows, n_heads, head_dim); q after RoPE and attn_scale. table[j] is the pool's
    // block that holds positions [64j, 64j + 64). `out` may not be q.
    void (*attention)(float* out, const float* q, const KvLayer& kv, const uint32_t* table,
                      const AttentionShape& shape);
    // Rule 9. h[i] = (g[i] / (1 + exp(-g[i]))) * u[i]. h may be g.
    void (*swiglu)(float* h, const float* g, const float* u, int64_t n);
    // Rule 8's softcap, in place; cap > 0.
    void (*softcap)(float* x, float cap, int64_t n);
    // Rule 10. Maximum (rule "max": a > b ? a : b, 16 lanes then the tree with max; order does not
    // matter for finite input) and sum over 16 lanes + tree16 of exp(z[i] - zmax).
    float (*max)(const float* z, int64_t n);
    float (*sum_exp)(const float* z, float zmax, int64_t n);
    // Rule 11. p[i] = exp((z[i] - zmax) / temperature). p may be z.
    void (*softmax_weights)(float* p, const float* z, float zmax, float temperature, int64_t n);
    // True when every value is finite.
    bool (*all_finite)(const float* x, int64_t n);
};

// Rule 10's scalar parts.
double log_f64(double x);  // x > 0, normal; the contract's series, the same bits everywhere
inline float log_prob(float z, float zmax, double log_sum) {
    return static_cast<float>(static_cast<double>(z) - static_cast<double>(zmax) - log_sum);
}

struct CpuFeatures {
    bool avx2 = false;
    bool fma = false;
    bool f16c = false;
    bool avx512 = false;  // F, BW, DQ and VL
    bool avx512_vnni = false;
};
CpuFeatures cpu_features();

// The table of that name, or nullptr if there is none or the CPU lacks it.
// "auto" gives the fastest that `features` allows; nullptr when AVX2, FMA or F16C is missing.
const Kernels* find_kernels(const char* name, const CpuFeatures& features);

// Runs every kernel of the table on the frozen case list of numerics_abi 1 and hashes all outputs
// (under 50 ms). Equal digests mean equal bits; kSelfTestDigest is the committed one.
uint64_t self_test(const Kernels& kernels);
extern const uint64_t kSelfTestDigest;

// MXCSR == 0x1F80 but for its sticky exception flags: round to nearest, no FTZ or DAZ. To be
// asserted after all libraries are loaded.
bool mxcsr_is_default();

}  // namespace chatloop::kernel
