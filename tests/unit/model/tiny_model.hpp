// A small random model: written by the test in the format of docs/model_format.md, by code that
// shares nothing with the reader, and kept as f64 for an independent forward pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop::testing {

class TempDir {
public:
    TempDir();
    ~TempDir();
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;

    const std::filesystem::path& path() const { return path_; }

private:
    std::filesystem::path path_;
};

struct RawTensor {
    std::string name;
    std::string dtype;  // as in the file
    std::vector<uint64_t> shape;
    std::vector<uint8_t> bytes;
};

// A safetensors file of the project's form: aligned, padded, without holes.
std::vector<uint8_t> safetensors_bytes(const std::vector<RawTensor>& tensors,
                                       const std::map<std::string, std::string>& metadata);
// The same around any header text; `data_bytes` zeros follow.
std::vector<uint8_t> with_header(std::string header, size_t data_bytes);
void write_file(const std::filesystem::path& path, const std::vector<uint8_t>& bytes);
void write_file(const std::filesystem::path& path, const std::string& text);
std::string sha256_of(const std::vector<uint8_t>& bytes);

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next();                         // splitmix64
    double uniform(double min, double max);
    int integer(int min, int max);           // both included

private:
    uint64_t state_;
};

// f16 bits of a value in f16's normal range, to nearest even; and back.
uint16_t f16_bits(double value);
double f16_value(uint16_t bits);

struct TinyOptions {
    uint64_t seed = 1;
    int32_t head_dim = 16;
    int32_t rot_dim = 16;
    bool biases = false;
    bool qk_norms = false;
    bool scales = false;    // embedding, residual and logit scale other than 1
    bool softcaps = false;
    kernel::WeightType embed = kernel::WeightType::kF32;
    // wq wk wv wo w1 w3 w2 head
    std::vector<kernel::WeightType> types = std::vector<kernel::WeightType>(
        8, kernel::WeightType::kF32);
};

// Logical weights (rows, cols), row-major f64: exactly what the stored form means.
struct Dense {
    int32_t rows = 0;
    int32_t cols = 0;
    std::vector<double> w;
    double at(int32_t r, int32_t c) const { return w[static_cast<size_t>(r * cols + c)]; }
};

struct TinyLayer {
    Dense attn_norm, wq, wk, wv, wo, ffn_norm, w1, w3, w2;
    Dense bq, bk, bv, bo, q_norm, k_norm;  // empty where the model has none
};

class TinyModel {
public:
    explicit TinyModel(const TinyOptions& options);

    const ModelSpec& spec() const { return spec_; }  // without partitions
    const Dense& embed() const { return embed_; }
    const Dense& rope_cos() const { return cos_; }
    const Dense& rope_sin() const { return sin_; }
    const std::vector<TinyLayer>& layers() const { return layers_; }
    const Dense& norm() const { return norm_; }
    const Dense& head() const { return head_; }

    // Partitions end at `ends`, ascending, the last one n_layers.
    void write(const std::filesystem::path& dir, const std::vector<int32_t>& ends) const;

private:
    std::vector<RawTensor> partition_tensors(int32_t first, int32_t end) const;
    std::string metadata_json(const std::string& cut_id, const std::vector<int32_t>& ends,
                              const std::vector<FileEntry>& files, const FileEntry& head) const;

    ModelSpec spec_;
    std::vector<TinyLayer> layers_;
    Dense embed_, cos_, sin_, norm_, head_;
    std::vector<RawTensor> tensors_;  // all, by their names in the files
};

// Logits (ids, vocab) of a plain f64 forward pass, with `round_kv` over a KV cache rounded to f16.
std::vector<double> plain_forward(const TinyModel& model, const std::vector<uint32_t>& ids,
                                  bool round_kv);

}  // namespace chatloop::testing
