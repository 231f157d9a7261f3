#include "chatloop/model/checkpoint.hpp"

#include <algorithm>
#include <cstring>

#include "tensor_reader.hpp"

namespace chatloop {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kTensorAlignment = 64;

Error bad_file(const std::string& file, const std::string& what) {
    return Error{ErrorCode::kBadFile, file + ": " + what};
}

std::string meta(const SafetensorsFile& file, std::string_view name) {
    const auto found = file.header().metadata.find(name);
    return found == file.header().metadata.end() ? std::string() : found->second;
}

// Every file names its model and its cut, so that files of two splits cannot be mixed.
Status check_identity(const SafetensorsFile& file, const ModelSpec& spec) {
    if (meta(file, "format") != kPartitionFormat) {
        return bad_file(file.name(), "not a partition file: write it with split_model.py");
    }
    const std::string version = meta(file, "format_version");
    const std::string abi = meta(file, "numerics_abi");
    if (version != std::to_string(kPartitionFormatVersion) || abi != std::to_string(kNumericsAbi)) {
        return Error{ErrorCode::kUnsupported,
                     file.name() + ": another format_version or numerics_abi than this build's: "
                                   "split the model again"};
    }
    if (meta(file, "model_id") != spec.model_id) {
        return bad_file(file.name(), "partition of another model than " +
                                         std::string(kMetadataFile) +
                                         " names: copy all files of one split");
    }
    if (meta(file, "cut_id") != spec.cut_id) {
        return bad_file(file.name(), "partition of another cut of this model: copy all files of "
                                     "one split");
    }
    return Ok{};
}

Status check_layers(const SafetensorsFile& file, const std::string& first, const std::string& end) {
    if (meta(file, "layer_first") == first && meta(file, "layer_end") == end) return Ok{};
    return bad_file(file.name(), "its layer range is not the one that " +
                                     std::string(kMetadataFile) + " gives: split the model again");
}

Result<SafetensorsFile> open_file(const std::filesystem::path& path, uint64_t bytes,
                                  const ModelSpec& spec) {
    std::error_code error;
    const uintmax_t found = std::filesystem::file_size(path, error);
    if (error) return bad_file(path.string(), error.message() + ": copy the whole model directory");
    if (found != bytes) {
        return bad_file(path.string(), "has " + std::to_string(found) + " bytes, " +
                                           std::string(kMetadataFile) + " says " +
                                           std::to_string(bytes) + ": copy it again");
    }
    Result<SafetensorsFile> file = SafetensorsFile::open(path);
    if (!file) return file;
    if (Status status = check_identity(*file, spec); !status) return status.error();
    return file;
}

LayerWeights read_layer(TensorReader& in, const ModelSpec& spec, const std::string& prefix) {
    const int32_t d = spec.hidden_size;
    const int32_t f = spec.ffn_size;
    const int32_t q = spec.q_width();
    const int32_t kv = spec.kv_width();
    LayerWeights layer;
    layer.attn_norm = in.vector(prefix + "attn_norm", d);
    layer.wq = in.matrix(prefix + "wq", q, d);
    layer.wk = in.matrix(prefix + "wk", kv, d);
    layer.wv = in.matrix(prefix + "wv", kv, d);
    layer.wo = in.matrix(prefix + "wo", d, q);
    layer.bq = in.optional_vector(prefix + "bq", q);
    layer.bk = in.optional_vector(prefix + "bk", kv);
    layer.bv = in.optional_vector(prefix + "bv", kv);
    layer.bo = in.optional_vector(prefix + "bo", d);
    layer.q_norm = in.optional_vector(prefix + "q_norm", spec.head_dim);
    layer.k_norm = in.optional_vector(prefix + "k_norm", spec.head_dim);
    layer.ffn_norm = in.vector(prefix + "ffn_norm", d);
    layer.w1 = in.matrix(prefix + "w1", f, d);
    layer.w3 = in.matrix(prefix + "w3", f, d);
    layer.w2 = in.matrix(prefix + "w2", d, f);
    return layer;
}

// Appends the part of `file` that lies in [layer_first, layer_end).
Status read_partition(const SafetensorsFile& file, const PartitionEntry& entry,
                      const ModelSpec& spec, int32_t layer_end, TensorLoader& tensors,
                      StageWeights& stage) {
    TensorReader in(file, tensors);
    if (stage.layers.empty() && stage.layer_first == 0) {
        stage.has_embedding = true;
        stage.embed = in.embedding("embed", spec.vocab_size, spec.hidden_size);
        if (Status status = in.finish("embed."); !status) return status;
    }
    if (stage.layers.empty()) {
        stage.rope_cos = in.table("rope.cos", spec.context_length, spec.rot_dim / 2);
        stage.rope_sin = in.table("rope.sin", spec.context_length, spec.rot_dim / 2);
        if (Status status = in.finish("rope."); !status) return status;
    }
    for (int32_t i = stage.layer_end(); i < std::min(layer_end, entry.layer_end); ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        stage.layers.push_back(read_layer(in, spec, prefix));
        if (Status status = in.finish(prefix); !status) return status;
    }
    return Ok{};
}

// Whether some value has all exponent bits set: infinite or NaN.
template <class Bits>
bool has_non_finite(const uint8_t* data, uint64_t bytes, Bits exponent) {
    const auto* values = reinterpret_cast<const Bits*>(data);
    bool found = false;  // no early exit, so that it is vectorized
    for (uint64_t i = 0; i < bytes / sizeof(Bits); ++i) {
        found |= (values[i] & exponent) == exponent;
    }
    return found;
}

// Reads every page, by its first byte or by the check of its floats.
bool read_and_check(const uint8_t* data, uint64_t bytes, Dtype dtype) {
    switch (dtype) {
        case Dtype::kF32: return !has_non_finite<uint32_t>(data, bytes, 0x7f800000);
        case Dtype::kF16: return !has_non_finite<uint16_t>(data, bytes, 0x7c00);
        case Dtype::kBf16: return !has_non_finite<uint16_t>(data, bytes, 0x7f80);
        case Dtype::kI8:
        case Dtype::kU8: break;
    }
    for (uint64_t i = 0; i < bytes; i += kPageBytes) {
        static_cast<void>(*static_cast<const volatile uint8_t*>(data + i));
    }
    return true;
}

}  // namespace

Status TensorLoader::begin_copy(uint64_t bytes) {
    CL_ASSERT(!copying_);
    Result<PrivateMemory> memory = PrivateMemory::map(bytes);
    if (!memory) return memory.error();
    copies_.push_back(std::move(*memory));
    copying_ = true;
    copy_bytes_ = 0;
    return Ok{};
}

void TensorLoader::end_copy() {
    if (copying_) copies_.back().shrink(copy_bytes_);
    copying_ = false;
}

const uint8_t* TensorLoader::add(std::string name, const uint8_t* data, uint64_t bytes,
                                 Dtype dtype) {
    uint8_t* copy = nullptr;
    if (copying_) {
        CL_ASSERT(bytes <= copies_.back().bytes() - copy_bytes_);
        copy = copies_.back().data() + copy_bytes_;
        copy_bytes_ += (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
    }
    ranges_.push_back({std::move(name), data, bytes, dtype, copy});
    bytes_total_ += bytes;
    return copying_ ? copy : data;
}

Result<bool> TensorLoader::load(uint64_t bytes) {
    uint64_t left = std::max(bytes, uint64_t{1});
    while (!done() && left > 0) {
        const Range& range = ranges_[next_];
        // In whole pages of the range, so that no slice ends amid a float.
        const uint64_t rest = range.bytes - offset_;
        const uint64_t pages = (std::min(left, rest) + kPageBytes - 1) / kPageBytes;
        const uint64_t count = std::min(pages * kPageBytes, rest);
        const uint8_t* data = range.data + offset_;
        if (range.copy != nullptr) {
            std::memcpy(range.copy + offset_, data, count);
            data = range.copy + offset_;
        }
        if (!read_and_check(data, count, range.dtype)) {
            return bad_file(range.name, "has a value that is not finite: damaged or badly "
                                        "converted; copy the file again, or split again");
        }
        left -= std::min(left, count);
        offset_ += count;
        bytes_loaded_ += count;
        if (offset_ == range.bytes) {
            ++next_;
            offset_ = 0;
        }
    }
    return done();
}

Result<Checkpoint> Checkpoint::open_layers(const std::filesystem::path& model_dir,
                                           const ModelSpec& spec, int32_t layer_first,
                                           int32_t layer_end, WeightPages pages) {
    if (layer_first < 0 || layer_end <= layer_first || layer_end > spec.n_layers) {
        return Error{ErrorCode::kInvalidRequest,
                     "layers [" + std::to_string(layer_first) + ", " + std::to_string(layer_end) +
                         ") are not a range of this model's " + std::to_string(spec.n_layers)};
    }
    Checkpoint checkpoint(pages);
    checkpoint.stage_.layer_first = layer_first;
    for (const PartitionEntry& entry : spec.partitions) {
        if (entry.layer_end <= layer_first || entry.layer_first >= layer_end) continue;
        Result<SafetensorsFile> file = open_file(model_dir / entry.file, entry.bytes, spec);
        if (!file) return file.error();
        Status status = check_layers(*file, std::to_string(entry.layer_first),
                                     std::to_string(entry.layer_end));
        if (!status) return status.error();
        status = checkpoint.begin_file(*file);
        if (!status) return status.error();
        status = read_partition(*file, entry, spec, layer_end, checkpoint.tensors_,
                                checkpoint.stage_);
        if (!status) return status.error();
        checkpoint.end_file(std::move(*file), entry.sha256);
    }
    CL_ASSERT(checkpoint.stage_.layer_end() == layer_end);
    return checkpoint;
}

Result<Checkpoint> Checkpoint::open_head(const std::filesystem::path& model_dir,
                                         const ModelSpec& spec, WeightPages pages) {
    Result<SafetensorsFile> file = open_file(model_dir / spec.head.file, spec.head.bytes, spec);
    if (!file) return file.error();
    if (Status status = check_layers(*file, "", ""); !status) return status.error();
    Checkpoint checkpoint(pages);
    if (Status status = checkpoint.begin_file(*file); !status) return status.error();
    TensorReader in(*file, checkpoint.tensors_);
    checkpoint.head_.norm = in.vector("norm", spec.hidden_size);
    checkpoint.head_.head = in.matrix("head", spec.vocab_size, spec.hidden_size);
    if (Status status = in.finish("head"); !status) return status.error();
    checkpoint.end_file(std::move(*file), spec.head.sha256);
    return checkpoint;
}

Status Checkpoint::begin_file(const SafetensorsFile& file) {
    if (pages_ == WeightPages::kMapped) return Ok{};
    const Status copied = tensors_.begin_copy(file.bytes());
    if (copied) return copied;
    return Error{ErrorCode::kUnsupported, file.name() + ": " + copied.error().message +
                                              " of weights: take --weights mmap"};
}

void Checkpoint::end_file(SafetensorsFile file, const std::string& sha256) {
    tensors_.end_copy();
    verifiers_.emplace_back(file.map(), sha256);
    for (const auto& [name, tensor] : file.header().tensors) {
        if (is_pad(name)) pad_bytes_ += tensor.bytes;
    }
    files_.push_back(std::move(file));
}

Result<bool> Checkpoint::load(uint64_t bytes) {
    if (!tensors_.done()) {
        if (Result<bool> read = tensors_.load(bytes); !read) return read;
    } else if (!loaded()) {
        Result<bool> sound = verifiers_[verified_].step(bytes);
        if (!sound) return sound;
        if (*sound) ++verified_;
    }
    // Of a file that is copied nothing stays resident in this process.
    if (pages_ == WeightPages::kHuge) {
        for (SafetensorsFile& file : files_) {
            if (loaded()) file.unmap();
            else file.map().drop_pages();
        }
    }
    return loaded();
}

uint64_t Checkpoint::mapped_bytes() const {
    return pages_ == WeightPages::kMapped ? tensors_.bytes_total() + pad_bytes_ : 0;
}

uint64_t Checkpoint::copied_bytes() const {
    uint64_t bytes = 0;
    for (const PrivateMemory& copy : tensors_.copies()) bytes += copy.bytes();
    return bytes;
}

PrivateMemory::Resident Checkpoint::copy() const {
    PrivateMemory::Resident sum;
    for (const PrivateMemory& copy : tensors_.copies()) {
        const PrivateMemory::Resident one = copy.resident();
        sum.bytes += one.bytes;
        sum.huge_bytes += one.huge_bytes;
    }
    return sum;
}

std::vector<std::string> Checkpoint::outcomes() const {
    std::vector<std::string> lines;
    for (const FileVerifier& verifier : verifiers_) lines.push_back(verifier.outcome());
    return lines;
}

const std::string& Checkpoint::largest_file() const {
    return std::max_element(files_.begin(), files_.end(),
                            [](const auto& a, const auto& b) { return a.bytes() < b.bytes(); })
        ->name();
}

const StageWeights& Checkpoint::stage() const {
    CL_ASSERT(!stage_.layers.empty());
    return stage_;
}

const HeadWeights& Checkpoint::head() const {
    CL_ASSERT(head_.norm != nullptr);
    return head_;
}

}  // namespace chatloop
