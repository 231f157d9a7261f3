// The weights of one worker: layers [first, end) of a model directory, or its head, as views into
// the mapped partition files. A range may be part of a file or span several.
//
//     open_* --> touch(bytes) until true (LOADING: the loop polls in between) --> LayerStack, Head
//
// Opening checks names, types, shapes and identities without reading the tensors; touch brings the
// pages in and refuses group scales that are not finite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/safetensors.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

// D hidden_size, F ffn_size, Q = n_heads * head_dim, KV = n_kv_heads * head_dim. Matrices (outputs,
// inputs); optional vectors are nullptr.
struct LayerWeights {
    const float* attn_norm = nullptr;  // (D)
    kernel::Matrix wq;                 // (Q, D)
    kernel::Matrix wk;                 // (KV, D)
    kernel::Matrix wv;                 // (KV, D)
    kernel::Matrix wo;                 // (D, Q)
    const float* bq = nullptr;         // (Q)
    const float* bk = nullptr;         // (KV)
    const float* bv = nullptr;         // (KV)
    const float* bo = nullptr;         // (D)
    const float* q_norm = nullptr;     // (head_dim)
    const float* k_norm = nullptr;     // (head_dim)
    const float* ffn_norm = nullptr;   // (D)
    kernel::Matrix w1;                 // (F, D), gate
    kernel::Matrix w3;                 // (F, D), up
    kernel::Matrix w2;                 // (D, F), down
};

struct StageWeights {
    int32_t layer_first = 0;
    std::vector<LayerWeights> layers;
    bool has_embedding = false;        // exactly when layer_first == 0
    kernel::EmbeddingTable embed;      // (vocab, D)
    const float* rope_cos = nullptr;   // (context_length, rot_dim / 2)
    const float* rope_sin = nullptr;   // (context_length, rot_dim / 2)

    int32_t layer_end() const { return layer_first + static_cast<int32_t>(layers.size()); }
};

struct HeadWeights {
    const float* norm = nullptr;  // (D)
    kernel::Matrix head;          // (vocab, D)
};

// Walks the tensors that a worker uses, in slices.
class PageToucher {
public:
    // `scales` tensors are f16 and checked; `name` is for the error.
    void add(std::string name, const uint8_t* data, uint64_t bytes, bool scales);

    uint64_t bytes_total() const { return bytes_total_; }
    uint64_t bytes_touched() const { return bytes_touched_; }
    bool done() const { return next_ == ranges_.size(); }
    Result<bool> touch(uint64_t bytes);

private:
    struct Range {
        std::string name;
        const uint8_t* data;
        uint64_t bytes;
        bool scales;
    };

    std::vector<Range> ranges_;
    size_t next_ = 0;       // index of the range that is being walked
    uint64_t offset_ = 0;   // in it
    uint64_t bytes_total_ = 0;
    uint64_t bytes_touched_ = 0;
};

class Checkpoint {
public:
    // Layers [layer_first, layer_end), with the embedding when layer_first is 0. kBadFile: a
    // missing, damaged or foreign file; kUnsupported: another version; kInvalidRequest: a range
    // that the model does not have.
    static Result<Checkpoint> open_layers(const std::filesystem::path& model_dir,
                                          const ModelSpec& spec, int32_t layer_first,
                                          int32_t layer_end);
    static Result<Checkpoint> open_head(const std::filesystem::path& model_dir,
                                        const ModelSpec& spec);

    const StageWeights& stage() const;
    const HeadWeights& head() const;

    // Touches about `bytes` more. True when all weights are resident and sound.
    Result<bool> touch(uint64_t bytes) { return pages_.touch(bytes); }
    bool loaded() const { return pages_.done(); }
    uint64_t bytes_total() const { return pages_.bytes_total(); }  // of the weights that are used
    uint64_t bytes_touched() const { return pages_.bytes_touched(); }

private:
    Checkpoint() = default;

    std::vector<SafetensorsFile> files_;
    StageWeights stage_;
    HeadWeights head_;
    PageToucher pages_;
};

}  // namespace chatloop
