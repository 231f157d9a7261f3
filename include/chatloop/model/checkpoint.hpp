// The weights of one worker: layers [first, end) of a model directory, or its head, as views into
// the mapped partition files. A range may be part of a file or span several.
//
//     open_* --> load(bytes) until true (LOADING: the loop polls in between) --> LayerStack, Head
//
// Opening checks names, types, shapes and identities without reading the tensors. Loading brings
// the pages in, refuses floats that are not finite, and then checks each file's sha256
// (file_check.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/file_check.hpp"
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

// Walks the tensors that a worker uses, in slices. Floats are checked: one that is not finite would
// come out as a token or as an error of a request, far from its cause.
class PageToucher {
public:
    // `name` is for the error.
    void add(std::string name, const uint8_t* data, uint64_t bytes, Dtype dtype);

    uint64_t bytes_total() const { return bytes_total_; }
    uint64_t bytes_touched() const { return bytes_touched_; }
    bool done() const { return next_ == ranges_.size(); }
    Result<bool> touch(uint64_t bytes);

private:
    struct Range {
        std::string name;
        const uint8_t* data;
        uint64_t bytes;
        Dtype dtype;
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

    // Touches or hashes about `bytes` more. True when all weights are resident and sound.
    Result<bool> load(uint64_t bytes);
    bool loaded() const { return pages_.done() && verified_ == verifiers_.size(); }

    // For the log, once it is loaded: how each file was found sound.
    std::vector<std::string> outcomes() const;

    // What will be resident: the weights that are used, and what lies between them.
    uint64_t bytes_total() const { return pages_.bytes_total() + pad_bytes_; }
    const std::string& largest_file() const;  // a path, for errors

private:
    Checkpoint() = default;

    void add_file(SafetensorsFile file, const std::string& sha256);

    std::vector<SafetensorsFile> files_;
    std::vector<FileVerifier> verifiers_;  // one a file
    size_t verified_ = 0;                  // verifiers that are done
    StageWeights stage_;
    HeadWeights head_;
    PageToucher pages_;
    uint64_t pad_bytes_ = 0;
};

}  // namespace chatloop
