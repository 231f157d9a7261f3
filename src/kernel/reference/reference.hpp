// docs/numerics.md in scalar C++, written to be read beside it: every function below is one rule,
// with the contract's order of operations and no other consideration. The tables of the
// instruction sets are tested against this one bit for bit.
#pragma once

#include "chatloop/kernel/kernels.hpp"

namespace chatloop::kernel::reference {

// The contract's max and min: the second operand when either is a NaN or both are zeros.
inline float max_of(float a, float b) { return a > b ? a : b; }
inline float min_of(float a, float b) { return a < b ? a : b; }
inline float clamp(float x, float low, float high) { return min_of(high, max_of(low, x)); }

// 16 logical lanes of a reduction; value i of a sequence belongs to lane i mod 16.
struct Lanes {
    float lane[kLanes];

    explicit Lanes(float start) {
        for (float& value : lane) {
            value = start;
        }
    }
};
float tree16(Lanes sum);
float tree16_max(Lanes maximum);

float exp(float x);                                     // rule 9
float softcap_of(float s, float cap);                   // rule 8
float weight_at(const Matrix& w, int32_t n, int32_t k);  // w[n][k] of a float matrix

void quantize(const QuantizedOut& out, const float* x, int32_t rows, int32_t k);
void matmul(float* y, int64_t y_stride, const Matrix& w, const Activations& x, int32_t panel_first,
            int32_t panel_end);
void add_bias(float* y, const float* bias, int32_t rows, int32_t n);
void embed(float* out, const EmbeddingTable& table, int32_t id);
void add(float* x, const float* y, int64_t n);
void scale(float* x, float factor, int64_t n);
void rms_norm(float* y, const float* x, const float* w, int32_t rows, int32_t n, float eps);
void rope(float* x, int32_t heads, int32_t head_dim, int32_t rot_dim, const float* cos,
          const float* sin);
void store_kv(const KvLayer& kv, uint32_t block, int32_t offset, const float* k, const float* v);
void attention(float* out, const float* q, const KvLayer& kv, const uint32_t* table,
               const AttentionShape& shape);
void swiglu(float* h, const float* g, const float* u, int64_t n);
void softcap(float* x, float cap, int64_t n);
float max(const float* z, int64_t n);
float sum_exp(const float* z, float zmax, int64_t n);
void softmax_weights(float* p, const float* z, float zmax, float temperature, int64_t n);
bool all_finite(const float* x, int64_t n);

}  // namespace chatloop::kernel::reference
