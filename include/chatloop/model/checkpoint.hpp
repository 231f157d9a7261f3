// The weights of one worker: layers [first, end) of a model directory, or its head, as views into
// the mapped partition files or into a private copy of what is used of them. A range may be part of
// a file or span several.
//
//     open_* --> load(bytes) until true (LOADING: the loop polls in between) --> LayerStack, Head
//
// Opening checks names, types, shapes and identities without reading the tensors. Loading brings
// the pages in or copies them, refuses floats that are not finite, and then checks each file's
// sha256 (file_check.hpp). With a copy the files are let go when they are found sound.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "chatloop/model/file_check.hpp"
#include "chatloop/model/private_memory.hpp"
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

enum class WeightPages : uint8_t {
    kMapped,  // the files', which processes share and the kernel may drop and read again
    kHuge,    // a private copy in 2-MiB pages, as far as the system has any
};

// Walks the tensors that a worker uses, in slices, and copies them where copies are wanted. Floats
// are checked: one that is not finite would come out as a token or as an error of a request, far
// from its cause.
class TensorLoader {
public:
    // What is added from here to end_copy() is copied: `bytes` at most, tensors at multiples of 64.
    Status begin_copy(uint64_t bytes);
    void end_copy();

    // Where the tensor is once it is loaded. `name` is for the error.
    const uint8_t* add(std::string name, const uint8_t* data, uint64_t bytes, Dtype dtype);

    uint64_t bytes_total() const { return bytes_total_; }
    uint64_t bytes_loaded() const { return bytes_loaded_; }
    bool done() const { return next_ == ranges_.size(); }
    Result<bool> load(uint64_t bytes);

    const std::vector<PrivateMemory>& copies() const { return copies_; }

private:
    struct Range {
        std::string name;
        const uint8_t* data;
        uint64_t bytes;
        Dtype dtype;
        uint8_t* copy;  // nullptr: none is wanted
    };

    std::vector<Range> ranges_;
    size_t next_ = 0;      // index of the range that is being walked
    uint64_t offset_ = 0;  // in it
    uint64_t bytes_total_ = 0;
    uint64_t bytes_loaded_ = 0;

    std::vector<PrivateMemory> copies_;  // one a file
    bool copying_ = false;
    uint64_t copy_bytes_ = 0;  // of the last copy that are assigned
};

class Checkpoint {
public:
    // Layers [layer_first, layer_end), with the embedding when layer_first is 0. kBadFile: a
    // missing, damaged or foreign file; kUnsupported: another version; kInvalidRequest: a range
    // that the model does not have.
    static Result<Checkpoint> open_layers(const std::filesystem::path& model_dir,
                                          const ModelSpec& spec, int32_t layer_first,
                                          int32_t layer_end,
                                          WeightPages pages = WeightPages::kMapped);
    static Result<Checkpoint> open_head(const std::filesystem::path& model_dir,
                                        const ModelSpec& spec,
                                        WeightPages pages = WeightPages::kMapped);

    const StageWeights& stage() const;
    const HeadWeights& head() const;

    // Reads or hashes about `bytes` more. True when all weights are resident and sound.
    Result<bool> load(uint64_t bytes);
    bool loaded() const { return tensors_.done() && verified_ == verifiers_.size(); }

    // For the log, once it is loaded: how each file was found sound.
    std::vector<std::string> outcomes() const;

    // What will be resident: of maps the weights that are used and what lies between them.
    uint64_t mapped_bytes() const;
    uint64_t copied_bytes() const;
    // What is resident of the copy now.
    PrivateMemory::Resident copy() const;
    const std::string& largest_file() const;  // a path, for errors

private:
    explicit Checkpoint(WeightPages pages) : pages_(pages) {}

    Status begin_file(const SafetensorsFile& file);
    void end_file(SafetensorsFile file, const std::string& sha256);

    WeightPages pages_;
    std::vector<SafetensorsFile> files_;
    std::vector<FileVerifier> verifiers_;  // one a file
    size_t verified_ = 0;                  // verifiers that are done
    StageWeights stage_;
    HeadWeights head_;
    TensorLoader tensors_;
    uint64_t pad_bytes_ = 0;
};

}  // namespace chatloop
