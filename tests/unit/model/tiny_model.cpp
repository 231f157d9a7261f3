#include "tiny_model.hpp"

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "chatloop/model/sha256.hpp"
#include "tiny_tensors.hpp"

namespace chatloop::testing {
namespace {

using nlohmann::json;

constexpr const char* kModelId = "0123456789abcdef0123456789abcdef";

std::string zeros(size_t count) { return std::string(count, '0'); }

std::string cut_id(const std::vector<int32_t>& ends) {
    std::string id;
    for (int32_t end : ends) id += "0" + std::to_string(end);
    return id + zeros(16 - id.size());
}

bool belongs(const std::string& name, int32_t first, int32_t end) {
    if (name.starts_with("rope.")) return true;
    if (name.starts_with("embed.")) return first == 0;
    if (!name.starts_with("layers.")) return false;
    const int32_t layer = std::stoi(name.substr(7));
    return first <= layer && layer < end;
}

}  // namespace

TempDir::TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "chatloop-XXXXXX").string();
    CL_ASSERT(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
}

TempDir::~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string sha256_of(const std::vector<uint8_t>& bytes) {
    Sha256 hash;
    hash.update(bytes);
    return hash.finish();
}

std::vector<uint8_t> with_header(std::string header, size_t data_bytes) {
    header.resize((8 + header.size() + 4095) / 4096 * 4096 - 8, ' ');
    std::vector<uint8_t> file(8 + header.size() + data_bytes);
    for (size_t i = 0; i < 8; ++i) file[i] = static_cast<uint8_t>(header.size() >> (8 * i));
    std::memcpy(file.data() + 8, header.data(), header.size());
    return file;
}

std::vector<uint8_t> safetensors_bytes(const std::vector<RawTensor>& tensors,
                                       const std::map<std::string, std::string>& metadata) {
    json header = {{"__metadata__", metadata}};
    std::vector<uint8_t> data;
    int pads = 0;
    for (const RawTensor& tensor : tensors) {
        const size_t begin = data.size();
        data.insert(data.end(), tensor.bytes.begin(), tensor.bytes.end());
        header[tensor.name] = {{"dtype", tensor.dtype},
                               {"shape", tensor.shape},
                               {"data_offsets", {begin, data.size()}}};
        const size_t pad = (64 - data.size() % 64) % 64;
        if (pad == 0) continue;
        header["pad." + std::to_string(pads++)] = {
            {"dtype", "U8"}, {"shape", {pad}}, {"data_offsets", {data.size(), data.size() + pad}}};
        data.resize(data.size() + pad);
    }
    std::vector<uint8_t> file = with_header(header.dump(), data.size());
    std::memcpy(file.data() + file.size() - data.size(), data.data(), data.size());
    return file;
}

void write_file(const std::filesystem::path& path, const std::vector<uint8_t>& bytes) {
    write_file(path, std::string(bytes.begin(), bytes.end()));
}

void write_file(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}

TinyModel::TinyModel(const TinyOptions& options) {
    spec_.model_id = kModelId;
    spec_.model_name = "Tiny";
    spec_.architecture = "llama";
    spec_.quantization = "none";
    spec_.hidden_size = 64;
    spec_.ffn_size = 96;
    spec_.n_layers = 3;
    spec_.n_heads = 4;
    spec_.n_kv_heads = 2;
    spec_.head_dim = options.head_dim;
    spec_.vocab_size = 100;
    spec_.context_length = 256;
    spec_.rot_dim = options.rot_dim;
    spec_.norm_eps = 1e-5f;
    spec_.attn_scale = 0.25f;
    if (options.scales) {
        spec_.embedding_scale = 3.5f;
        spec_.residual_scale = 0.3f;
        spec_.logit_scale = 0.7f;
    }
    if (options.softcaps) {
        spec_.attn_softcap = 2.0f;
        spec_.logit_softcap = 1.5f;
    }
    TensorMaker make(options.seed, tensors_);
    const int32_t d = spec_.hidden_size;
    const auto& types = options.types;
    embed_ = make.embedding("embed", options.embed, spec_.vocab_size, d);
    make.rope(spec_.context_length, spec_.rot_dim, cos_, sin_);
    for (int32_t i = 0; i < spec_.n_layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        TinyLayer layer;
        layer.attn_norm = make.vector(prefix + "attn_norm", d, 0.5, 1.5);
        layer.wq = make.matrix(prefix + "wq", types[0], spec_.q_width(), d);
        layer.wk = make.matrix(prefix + "wk", types[1], spec_.kv_width(), d);
        layer.wv = make.matrix(prefix + "wv", types[2], spec_.kv_width(), d);
        layer.wo = make.matrix(prefix + "wo", types[3], d, spec_.q_width());
        if (options.biases) {
            layer.bq = make.vector(prefix + "bq", spec_.q_width(), -1.0, 1.0);
            layer.bk = make.vector(prefix + "bk", spec_.kv_width(), -1.0, 1.0);
            layer.bv = make.vector(prefix + "bv", spec_.kv_width(), -1.0, 1.0);
            layer.bo = make.vector(prefix + "bo", d, -1.0, 1.0);
        }
        if (options.qk_norms) {
            layer.q_norm = make.vector(prefix + "q_norm", spec_.head_dim, 0.5, 1.5);
            layer.k_norm = make.vector(prefix + "k_norm", spec_.head_dim, 0.5, 1.5);
        }
        layer.ffn_norm = make.vector(prefix + "ffn_norm", d, 0.5, 1.5);
        layer.w1 = make.matrix(prefix + "w1", types[4], spec_.ffn_size, d);
        layer.w3 = make.matrix(prefix + "w3", types[5], spec_.ffn_size, d);
        layer.w2 = make.matrix(prefix + "w2", types[6], d, spec_.ffn_size);
        layers_.push_back(std::move(layer));
    }
    norm_ = make.vector("norm", d, 0.5, 1.5);
    head_ = make.matrix("head", types[7], spec_.vocab_size, d);
}

std::vector<RawTensor> TinyModel::partition_tensors(int32_t first, int32_t end) const {
    std::vector<RawTensor> out;
    for (const RawTensor& tensor : tensors_) {
        if (belongs(tensor.name, first, end)) out.push_back(tensor);
    }
    return out;
}

std::string TinyModel::metadata_json(const std::string& cut, const std::vector<int32_t>& ends,
                                     const std::vector<FileEntry>& files,
                                     const FileEntry& head) const {
    json partitions = json::array();
    int32_t first = 0;
    for (size_t i = 0; i < ends.size(); ++i) {
        partitions.push_back({{"file", files[i].file},
                              {"layer_first", first},
                              {"layer_end", ends[i]},
                              {"has_embedding", i == 0},
                              {"bytes", files[i].bytes},
                              {"sha256", files[i].sha256}});
        first = ends[i];
    }
    const json root = {
        {"format", "chatloop-partition"}, {"format_version", 1}, {"numerics_abi", 1},
        {"model_id", kModelId}, {"cut_id", cut}, {"model_name", spec_.model_name},
        {"architecture", spec_.architecture}, {"quantization", spec_.quantization},
        {"hidden_size", spec_.hidden_size}, {"ffn_size", spec_.ffn_size},
        {"n_layers", spec_.n_layers}, {"n_heads", spec_.n_heads},
        {"n_kv_heads", spec_.n_kv_heads}, {"head_dim", spec_.head_dim},
        {"vocab_size", spec_.vocab_size}, {"context_length", spec_.context_length},
        {"rot_dim", spec_.rot_dim}, {"norm_eps", spec_.norm_eps},
        {"attn_scale", spec_.attn_scale}, {"embedding_scale", spec_.embedding_scale},
        {"residual_scale", spec_.residual_scale}, {"logit_scale", spec_.logit_scale},
        {"attn_softcap", spec_.attn_softcap}, {"logit_softcap", spec_.logit_softcap},
        {"bos_id", 1}, {"eos_id", 2}, {"add_bos", false}, {"stop_ids", {0, 2}},
        {"source", {{"file", "tiny.gguf"}, {"sha256", zeros(64)}}},
        {"partitions", partitions},
        {"head", {{"file", head.file}, {"bytes", head.bytes}, {"sha256", head.sha256}}}};
    return root.dump(1);
}

void TinyModel::write(const std::filesystem::path& dir, const std::vector<int32_t>& ends) const {
    std::map<std::string, std::string> metadata = {
        {"format", "chatloop-partition"}, {"format_version", "1"}, {"numerics_abi", "1"},
        {"model_id", kModelId}, {"cut_id", cut_id(ends)}};
    std::vector<RawTensor> head_tensors;
    for (const RawTensor& tensor : tensors_) {
        const bool head = tensor.name == "norm" || tensor.name.starts_with("head.");
        if (head) head_tensors.push_back(tensor);
    }
    const auto write_partition = [&](const std::string& name, const std::vector<uint8_t>& bytes) {
        write_file(dir / name, bytes);
        return FileEntry{name, bytes.size(), sha256_of(bytes)};
    };
    const FileEntry head = write_partition("partition_head.safetensors",
                                           safetensors_bytes(head_tensors, metadata));
    std::vector<FileEntry> files;
    int32_t first = 0;
    for (size_t i = 0; i < ends.size(); ++i) {
        metadata["layer_first"] = std::to_string(first);
        metadata["layer_end"] = std::to_string(ends[i]);
        files.push_back(
            write_partition("partition_" + std::to_string(i) + ".safetensors",
                            safetensors_bytes(partition_tensors(first, ends[i]), metadata)));
        first = ends[i];
    }
    write_file(dir / kMetadataFile, metadata_json(cut_id(ends), ends, files, head));
}

}  // namespace chatloop::testing
