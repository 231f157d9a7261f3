// ModelSpec: partition_metadata.json, checked field by field (docs/model_format.md). What is in a
// ModelSpec may be trusted: every width is positive and bounded, every product of two fits int32.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/core/result.hpp"

namespace chatloop {

inline constexpr int32_t kNumericsAbi = 1;  // docs/numerics.md, the one that this build computes
inline constexpr const char* kPartitionFormat = "chatloop-partition";
inline constexpr int32_t kPartitionFormatVersion = 1;
inline constexpr const char* kMetadataFile = "partition_metadata.json";

struct PartitionEntry {
    std::string file;  // a plain name in the model directory
    int32_t layer_first = 0;
    int32_t layer_end = 0;
    bool has_embedding = false;
    uint64_t bytes = 0;
    std::string sha256;  // 64 hex digits
};

struct FileEntry {
    std::string file;
    uint64_t bytes = 0;
    std::string sha256;  // 64 hex digits
};

struct ModelSpec {
    std::string model_id;  // 32 hex digits, independent of the cut
    std::string cut_id;    // 16 hex digits
    std::string model_name;
    std::string architecture;
    std::string quantization;
    std::string source_file;
    std::string source_sha256;  // empty where the source was a directory

    int32_t hidden_size = 0;
    int32_t ffn_size = 0;
    int32_t n_layers = 0;
    int32_t n_heads = 0;     // a multiple of n_kv_heads
    int32_t n_kv_heads = 0;
    int32_t head_dim = 0;
    int32_t vocab_size = 0;
    int32_t context_length = 0;  // positions
    int32_t rot_dim = 0;         // even, at most head_dim

    float norm_eps = 0.0f;
    float attn_scale = 0.0f;
    float embedding_scale = 1.0f;
    float residual_scale = 1.0f;
    float logit_scale = 1.0f;
    float attn_softcap = 0.0f;   // 0: none
    float logit_softcap = 0.0f;  // 0: none

    int32_t bos_id = -1;  // -1: none
    int32_t eos_id = -1;
    bool add_bos = false;
    std::vector<int32_t> stop_ids;

    std::vector<PartitionEntry> partitions;  // contiguous from layer 0 to n_layers
    FileEntry head;
    std::vector<FileEntry> tokenizer_files;  // relative to the model directory; may be empty

    int32_t q_width() const { return n_heads * head_dim; }
    int32_t kv_width() const { return n_kv_heads * head_dim; }
};

// `source` names the text in errors. kBadFile: not JSON, a field missing, of the wrong type, out of
// range or unknown; kUnsupported: another format version or numerics_abi.
Result<ModelSpec> parse_spec(std::string_view json, const std::string& source);

// Reads partition_metadata.json of a model directory.
Result<ModelSpec> read_spec(const std::filesystem::path& model_dir);

}  // namespace chatloop
