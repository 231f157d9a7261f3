#include "chatloop/model/spec.hpp"

#include <cfloat>
#include <fstream>
#include <set>
#include <sstream>

#include "chatloop/core/limits.hpp"
#include "chatloop/kernel/kernels.hpp"
#include "json_fields.hpp"

namespace chatloop {
namespace {

using nlohmann::json;

constexpr int32_t kFfnMax = 1 << 20;
constexpr int32_t kLayersMax = 4096;
constexpr int32_t kHeadsMax = 1024;
constexpr int32_t kVocabMax = 1 << 22;
constexpr int32_t kContextMax = static_cast<int32_t>(kSequenceBlocksMax) * 64;
constexpr size_t kStopIdsMax = 256;
constexpr size_t kTokenizerFilesMax = 16;
constexpr int64_t kFileBytesMax = int64_t{1} << 48;
constexpr uintmax_t kMetadataBytesMax = 4u << 20;
constexpr int kDepthMax = 4;

int32_t int32_field(FieldReader& in, const char* name, int64_t min, int64_t max) {
    return static_cast<int32_t>(in.integer(name, min, max));
}

// Another version is not a damaged file: it gets its own code, before any other field is read.
Status check_versions(const json& root, const std::string& source) {
    FieldReader in(root, source);
    if (in.text("format") != kPartitionFormat) in.fail("format", "is not \"chatloop-partition\"");
    const int64_t version = in.integer("format_version", 0, INT32_MAX);
    const int64_t abi = in.integer("numerics_abi", 0, INT32_MAX);
    if (Status status = in.status(); !status) return status;
    if (version == kPartitionFormatVersion && abi == kNumericsAbi) return Ok{};
    return Error{ErrorCode::kUnsupported,
                 source + ": format_version " + std::to_string(version) + ", numerics_abi " +
                     std::to_string(abi) + "; this build reads " +
                     std::to_string(kPartitionFormatVersion) + " and computes " +
                     std::to_string(kNumericsAbi) + ": split the model again"};
}

void read_identity(FieldReader& in, ModelSpec& spec) {
    in.text("format");
    in.integer("format_version", 1, 1);
    in.integer("numerics_abi", 1, 1);
    spec.model_id = in.hex("model_id", 32);
    spec.cut_id = in.hex("cut_id", 16);
    spec.model_name = in.text("model_name");
    spec.architecture = in.text("architecture");
    spec.quantization = in.text("quantization");
}

void read_dimensions(FieldReader& in, ModelSpec& spec) {
    spec.hidden_size = int32_field(in, "hidden_size", 1, kWidthMax);
    spec.ffn_size = int32_field(in, "ffn_size", 1, kFfnMax);
    spec.n_layers = int32_field(in, "n_layers", 1, kLayersMax);
    spec.n_heads = int32_field(in, "n_heads", 1, kHeadsMax);
    spec.n_kv_heads = int32_field(in, "n_kv_heads", 1, kHeadsMax);
    spec.head_dim = int32_field(in, "head_dim", 2, kernel::kHeadDimMax);
    spec.vocab_size = int32_field(in, "vocab_size", 1, kVocabMax);
    spec.context_length = int32_field(in, "context_length", 1, kContextMax);
    spec.rot_dim = int32_field(in, "rot_dim", 2, kernel::kHeadDimMax);
    if (spec.n_heads % spec.n_kv_heads != 0) in.fail("n_heads", "is not a multiple of n_kv_heads");
    if (spec.rot_dim % 2 != 0) in.fail("rot_dim", "is odd");
    if (spec.rot_dim > spec.head_dim) in.fail("rot_dim", "is larger than head_dim");
}

void read_numbers(FieldReader& in, ModelSpec& spec) {
    spec.norm_eps = in.real("norm_eps", 0.0f, 1.0f);
    spec.attn_scale = in.real("attn_scale", FLT_MIN, FLT_MAX);
    spec.embedding_scale = in.real("embedding_scale", FLT_MIN, FLT_MAX);
    spec.residual_scale = in.real("residual_scale", FLT_MIN, FLT_MAX);
    spec.logit_scale = in.real("logit_scale", FLT_MIN, FLT_MAX);
    spec.attn_softcap = in.real("attn_softcap", 0.0f, FLT_MAX);
    spec.logit_softcap = in.real("logit_softcap", 0.0f, FLT_MAX);
}

void read_ids(FieldReader& in, ModelSpec& spec) {
    spec.bos_id = int32_field(in, "bos_id", -1, spec.vocab_size - 1);
    spec.eos_id = int32_field(in, "eos_id", -1, spec.vocab_size - 1);
    spec.add_bos = in.flag("add_bos");
    if (spec.add_bos && spec.bos_id < 0) in.fail("add_bos", "is true but there is no bos_id");
    const json* stops = in.array("stop_ids", 0, kStopIdsMax);
    if (stops == nullptr) return;
    for (const json& stop : *stops) {
        const bool unsigned_id = stop.is_number_unsigned();
        if (!unsigned_id || stop.get<uint64_t>() >= static_cast<uint64_t>(spec.vocab_size)) {
            in.fail("stop_ids", "has an element that is not an id below vocab_size");
            return;
        }
        spec.stop_ids.push_back(stop.get<int32_t>());
    }
}

Status read_source(const json& object, const std::string& source, ModelSpec& spec) {
    FieldReader in(object, source + ": source");
    spec.source_file = in.text("file");
    if (in.has("sha256")) spec.source_sha256 = in.hex("sha256", 64);
    return in.finish();
}

Status read_partitions(const json& array, const std::string& source, ModelSpec& spec) {
    int32_t layer_next = 0;
    std::set<std::string> files = {spec.head.file};
    for (const json& element : array) {
        const std::string where =
            source + ": partitions[" + std::to_string(spec.partitions.size()) + "]";
        FieldReader in(element, where);
        PartitionEntry entry;
        entry.file = in.file_name("file");
        entry.layer_first = int32_field(in, "layer_first", 0, spec.n_layers);
        entry.layer_end = int32_field(in, "layer_end", 0, spec.n_layers);
        entry.has_embedding = in.flag("has_embedding");
        entry.bytes = static_cast<uint64_t>(in.integer("bytes", 1, kFileBytesMax));
        entry.sha256 = in.hex("sha256", 64);
        if (entry.layer_first != layer_next) {
            in.fail("layer_first",
                    "is not " + std::to_string(layer_next) + ", where the layers before end");
        }
        if (entry.layer_end <= entry.layer_first) in.fail("layer_end", "is not above layer_first");
        if (entry.has_embedding != (layer_next == 0)) {
            in.fail("has_embedding", "must be true for the first partition and for no other");
        }
        if (!files.insert(entry.file).second) in.fail("file", "is named twice");
        if (Status status = in.finish(); !status) return status;
        layer_next = entry.layer_end;
        spec.partitions.push_back(std::move(entry));
    }
    if (layer_next != spec.n_layers) {
        return Error{ErrorCode::kBadFile, source + ": partitions end at layer " +
                                              std::to_string(layer_next) + " of " +
                                              std::to_string(spec.n_layers)};
    }
    return Ok{};
}

Status read_head(const json& object, const std::string& source, ModelSpec& spec) {
    FieldReader in(object, source + ": head");
    spec.head.file = in.file_name("file");
    spec.head.bytes = static_cast<uint64_t>(in.integer("bytes", 1, kFileBytesMax));
    spec.head.sha256 = in.hex("sha256", 64);
    return in.finish();
}

Status read_tokenizer_files(const json& array, const std::string& source, ModelSpec& spec) {
    for (const json& element : array) {
        FieldReader in(element, source + ": tokenizer");
        FileEntry entry;
        entry.file = in.text("file");
        entry.bytes = static_cast<uint64_t>(in.integer("bytes", 1, kFileBytesMax));
        entry.sha256 = in.hex("sha256", 64);
        if (Status status = in.finish(); !status) return status;
        spec.tokenizer_files.push_back(std::move(entry));
    }
    return Ok{};
}

}  // namespace

Result<ModelSpec> parse_spec(std::string_view text, const std::string& source) {
    Result<json> root = parse_json(text, source, kDepthMax);
    if (!root) return root.error();
    if (Status status = check_versions(*root, source); !status) return status.error();

    ModelSpec spec;
    FieldReader in(*root, source);
    read_identity(in, spec);
    read_dimensions(in, spec);
    read_numbers(in, spec);
    read_ids(in, spec);
    const json* origin = in.object("source");
    const json* partitions = in.array("partitions", 1, static_cast<size_t>(spec.n_layers));
    const json* head = in.object("head");
    const bool lists_tokenizer = in.has("tokenizer");
    const json* tokenizer =
        lists_tokenizer ? in.array("tokenizer", 0, kTokenizerFilesMax) : nullptr;
    if (Status status = in.finish(); !status) return status.error();

    if (Status status = read_source(*origin, source, spec); !status) return status.error();
    if (Status status = read_head(*head, source, spec); !status) return status.error();
    if (Status status = read_partitions(*partitions, source, spec); !status) return status.error();
    if (tokenizer != nullptr) {
        Status status = read_tokenizer_files(*tokenizer, source, spec);
        if (!status) return status.error();
    }
    return spec;
}

Result<ModelSpec> read_spec(const std::filesystem::path& model_dir) {
    const std::filesystem::path path = model_dir / kMetadataFile;
    std::error_code error;
    const uintmax_t bytes = std::filesystem::file_size(path, error);
    if (error) {
        return Error{ErrorCode::kBadFile, path.string() + ": " + error.message() +
                                              "; is this a directory written by split_model.py?"};
    }
    if (bytes > kMetadataBytesMax) {
        return Error{ErrorCode::kBadFile, path.string() + ": larger than any model's metadata"};
    }
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    if (!file) return Error{ErrorCode::kBadFile, path.string() + ": cannot be read"};
    return parse_spec(text.str(), path.string());
}

}  // namespace chatloop
