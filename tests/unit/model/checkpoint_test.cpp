#include "chatloop/model/checkpoint.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;
using kernel::WeightType;

namespace {

using Metadata = std::map<std::string, std::string>;

TinyOptions mixed_options() {
    TinyOptions options;
    options.biases = true;
    options.embed = WeightType::kQ4Min;
    options.types = {WeightType::kQ8,  WeightType::kQ4,  WeightType::kQ4Min, WeightType::kF16,
                     WeightType::kF32, WeightType::kBf16, WeightType::kQ8,   WeightType::kQ4Min};
    return options;
}

void write_tiny(const TempDir& dir, const std::vector<int32_t>& ends) {
    TinyModel(mixed_options()).write(dir.path(), ends);
}

ModelSpec spec_of(const TempDir& dir) {
    Result<ModelSpec> spec = read_spec(dir.path());
    REQUIRE_MESSAGE(spec.ok(), (spec.ok() ? "" : spec.error().message));
    return *spec;
}

std::vector<uint8_t> read_bytes(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Rewrites a partition file with other tensors or metadata, and its size in the ModelSpec.
void rewrite(const TempDir& dir, ModelSpec& spec, size_t partition,
             const std::function<void(std::vector<RawTensor>&, Metadata&)>& change) {
    PartitionEntry& entry = spec.partitions[partition];
    Result<SafetensorsFile> file = SafetensorsFile::open(dir.path() / entry.file);
    REQUIRE(file.ok());
    std::vector<RawTensor> tensors;
    for (const auto& [name, info] : file->header().tensors) {
        if (name.starts_with("pad.")) continue;
        const uint8_t* data = file->data(info);
        tensors.push_back({name, std::string(dtype_name(info.dtype)), info.shape,
                           std::vector<uint8_t>(data, data + info.bytes)});
    }
    Metadata metadata;
    for (const auto& [name, value] : file->header().metadata) metadata[name] = value;
    change(tensors, metadata);
    std::filesystem::remove(dir.path() / entry.file);
    const std::vector<uint8_t> bytes = safetensors_bytes(tensors, metadata);
    write_file(dir.path() / entry.file, bytes);
    entry.bytes = bytes.size();
    entry.sha256 = sha256_of(bytes);
}

RawTensor& tensor(std::vector<RawTensor>& tensors, const std::string& name) {
    for (RawTensor& candidate : tensors) {
        if (candidate.name == name) return candidate;
    }
    FAIL("no tensor " << name);
    return tensors.front();
}

void check_refused(const Result<Checkpoint>& checkpoint, const std::string& message) {
    CAPTURE(message);
    REQUIRE_FALSE(checkpoint.ok());
    CAPTURE(checkpoint.error().message);
    CHECK(checkpoint.error().message.find(message) != std::string::npos);
    CHECK(checkpoint.error().message.find('\n') == std::string::npos);
}

// Loads to the end; the count of slices.
int load_slices(Checkpoint& checkpoint, uint64_t bytes) {
    int slices = 0;
    while (!checkpoint.loaded()) {
        const Result<bool> done = checkpoint.load(bytes);
        REQUIRE_MESSAGE(done.ok(), (done.ok() ? "" : done.error().message));
        CHECK(*done == checkpoint.loaded());
        ++slices;
    }
    return slices;
}

void check_load_refused(Checkpoint& checkpoint, const std::string& message) {
    CAPTURE(message);
    Result<bool> done = false;
    while (done.ok() && !*done) done = checkpoint.load(8192);
    REQUIRE_FALSE(done.ok());
    CAPTURE(done.error().message);
    CHECK(done.error().code == ErrorCode::kBadFile);
    CHECK(done.error().message.find(message) != std::string::npos);
    CHECK(done.error().message.find('\n') == std::string::npos);
    CHECK_FALSE(checkpoint.loaded());
}

// An infinity with a minus, or a NaN with one mantissa bit.
void put_non_finite(uint8_t* at, Dtype dtype, bool nan) {
    if (dtype == Dtype::kF32) {
        const uint32_t bits = nan ? 0x7f800001 : 0xff800000;
        std::memcpy(at, &bits, sizeof bits);
        return;
    }
    const uint16_t infinity = dtype == Dtype::kF16 ? 0x7c00 : 0x7f80;
    const auto bits = static_cast<uint16_t>(nan ? infinity | 1 : infinity | 0x8000);
    std::memcpy(at, &bits, sizeof bits);
}

struct TensorFault {
    const char* message;
    std::function<void(std::vector<RawTensor>&)> change;
};

std::vector<TensorFault> tensor_faults() {
    const auto remove = [](const char* name) {
        return [name](std::vector<RawTensor>& all) {
            std::erase_if(all, [name](const RawTensor& one) { return one.name == name; });
        };
    };
    return {
        {"\"layers.1.attn_norm\" is missing", remove("layers.1.attn_norm")},
        {"\"layers.0.wq.scales\" is missing", remove("layers.0.wq.scales")},
        {"\"rope.sin\" is missing", remove("rope.sin")},
        {"\"layers.0.w1\" must have exactly one", remove("layers.0.w1.weight")},
        {"\"embed\" must have exactly one", remove("embed.q4")},
        {"\"layers.0.w1\" must have exactly one",
         [](auto& all) { all.push_back({"layers.0.w1.q8", "I8", {1}, {0}}); }},
        {"unknown tensor \"layers.1.wq.bias\"",
         [](auto& all) { all.push_back({"layers.1.wq.bias", "U8", {1}, {0}}); }},
        {"unknown tensor \"embed.extra\"",
         [](auto& all) { all.push_back({"embed.extra", "U8", {1}, {0}}); }},
        {"\"layers.0.ffn_norm\" is F32 [2, 32], the metadata asks for F32 [64]",
         [](auto& all) { tensor(all, "layers.0.ffn_norm").shape = {2, 32}; }},
        {"\"layers.0.wq.q8\" is U8", [](auto& all) { tensor(all, "layers.0.wq.q8").dtype = "U8"; }},
        {"\"layers.0.w1.weight\" is U8 [6, 64, 64], the metadata asks for F32 [6, 64, 16]",
         [](auto& all) {
             tensor(all, "layers.0.w1.weight").dtype = "U8";
             tensor(all, "layers.0.w1.weight").shape = {6, 64, 64};
         }},
    };
}

}  // namespace

TEST_CASE("any layer range of any cut can be opened") {
    for (const std::vector<int32_t>& ends : {std::vector<int32_t>{3}, {1, 3}, {2, 3}, {1, 2, 3}}) {
        const TempDir dir;
        write_tiny(dir, ends);
        const ModelSpec spec = spec_of(dir);
        for (int32_t first = 0; first < 3; ++first) {
            for (int32_t end = first + 1; end <= 3; ++end) {
                const Result<Checkpoint> opened =
                    Checkpoint::open_layers(dir.path(), spec, first, end);
                REQUIRE_MESSAGE(opened.ok(), (opened.ok() ? "" : opened.error().message));
                const StageWeights& stage = opened->stage();
                CHECK(stage.layer_first == first);
                CHECK(stage.layer_end() == end);
                CHECK(stage.has_embedding == (first == 0));
                CHECK(stage.layers[0].wq.type == WeightType::kQ8);
                CHECK(stage.layers[0].wv.type == WeightType::kQ4Min);
                CHECK(stage.layers[0].w3.type == WeightType::kBf16);
                CHECK(stage.layers[0].bq != nullptr);
                CHECK(stage.layers[0].q_norm == nullptr);
            }
        }
        CHECK_FALSE(Checkpoint::open_layers(dir.path(), spec, 0, 4).ok());
        CHECK_FALSE(Checkpoint::open_layers(dir.path(), spec, 2, 2).ok());
        CHECK_FALSE(Checkpoint::open_layers(dir.path(), spec, -1, 2).ok());
        const Result<Checkpoint> head = Checkpoint::open_head(dir.path(), spec);
        REQUIRE(head.ok());
        CHECK(head->head().head.type == WeightType::kQ4Min);
        CHECK(head->head().head.panels() == 7);
    }
}

TEST_CASE("loading walks the used bytes, then the whole files, in slices") {
    const TempDir dir;
    write_tiny(dir, {3});
    const ModelSpec spec = spec_of(dir);
    Result<Checkpoint> part = Checkpoint::open_layers(dir.path(), spec, 1, 2);
    Result<Checkpoint> whole = Checkpoint::open_layers(dir.path(), spec, 0, 3);
    REQUIRE(part.ok());
    REQUIRE(whole.ok());
    CHECK(part->mapped_bytes() < whole->mapped_bytes());
    CHECK(whole->mapped_bytes() < spec.partitions[0].bytes);
    CHECK(load_slices(*whole, 8192) >= static_cast<int>(whole->mapped_bytes() / 8192 +
                                                        spec.partitions[0].bytes / 8192));
    CHECK(whole->outcomes().size() == 1);
    CHECK(whole->outcomes()[0].find("sha256 checked") != std::string::npos);
    // The stamp spares the second pass.
    CHECK(load_slices(*part, 8192) <= static_cast<int>(part->mapped_bytes() / 8192 + 3));
    CHECK(part->outcomes()[0].find("was checked before") != std::string::npos);
}

TEST_CASE("a float that is not finite is refused in every tensor, by its name") {
    for (const bool head : {false, true}) {
        const TempDir dir;
        write_tiny(dir, {3});
        const ModelSpec spec = spec_of(dir);
        const std::filesystem::path path =
            dir.path() / (head ? spec.head.file : spec.partitions[0].file);
        const std::vector<uint8_t> sound = read_bytes(path);
        const SafetensorsHeader header =
            *parse_safetensors_header(sound, sound.size(), path.string());
        std::set<std::string> kinds;
        for (const auto& [name, tensor] : header.tensors) {
            if (tensor.dtype == Dtype::kI8 || tensor.dtype == Dtype::kU8) continue;
            kinds.insert(std::string(dtype_name(tensor.dtype)));
            const size_t size = dtype_bytes(tensor.dtype);
            for (const uint64_t at : {uint64_t{0}, tensor.bytes / size / 2 * size,
                                      tensor.bytes - size}) {
                for (const bool nan : {false, true}) {
                    std::vector<uint8_t> bytes = sound;
                    put_non_finite(bytes.data() + tensor.offset + at, tensor.dtype, nan);
                    write_file(path, bytes);
                    const WeightPages pages = nan ? WeightPages::kHuge : WeightPages::kMapped;
                    Result<Checkpoint> opened =
                        head ? Checkpoint::open_head(dir.path(), spec, pages)
                             : Checkpoint::open_layers(dir.path(), spec, 0, 3, pages);
                    REQUIRE(opened.ok());
                    check_load_refused(*opened, "tensor \"" + name + "\": has a value that is not");
                }
            }
        }
        CHECK(kinds.size() == (head ? 2 : 3));
    }
}

TEST_CASE("floats are read on their own grid, wherever the slice before them ended") {
    const std::vector<uint16_t> halves(2047);  // an odd number, so that a slice ends amid a float
    const std::vector<uint32_t> floats(3000, 0x00007f80);  // finite, but its halves are not
    const auto* half_bytes = reinterpret_cast<const uint8_t*>(halves.data());
    const auto* float_bytes = reinterpret_cast<const uint8_t*>(floats.data());
    TensorLoader tensors;
    tensors.add("halves", half_bytes, halves.size() * sizeof(uint16_t), Dtype::kF16);
    tensors.add("floats", float_bytes, floats.size() * sizeof(uint32_t), Dtype::kF32);
    while (!tensors.done()) {
        const Result<bool> read = tensors.load(4096);
        REQUIRE_MESSAGE(read.ok(), (read.ok() ? "" : read.error().message));
    }
    CHECK(tensors.bytes_loaded() == tensors.bytes_total());
}

TEST_CASE("a byte that changed since the split is refused") {
    const TempDir dir;
    write_tiny(dir, {3});
    ModelSpec spec = spec_of(dir);
    spec.partitions[0].sha256[63] ^= 1;
    spec.head.sha256[0] ^= 1;
    for (const WeightPages pages : {WeightPages::kMapped, WeightPages::kHuge}) {
        Result<Checkpoint> layers = Checkpoint::open_layers(dir.path(), spec, 0, 3, pages);
        REQUIRE(layers.ok());
        check_load_refused(*layers, "partition_0.safetensors: damaged: its sha256");
        Result<Checkpoint> head = Checkpoint::open_head(dir.path(), spec, pages);
        REQUIRE(head.ok());
        check_load_refused(*head, "partition_head.safetensors: damaged: its sha256");
    }
}

TEST_CASE("a copy holds the tensors that are used, and needs no file once it is loaded") {
    const TempDir dir;
    write_tiny(dir, {2, 3});
    const ModelSpec spec = spec_of(dir);
    Result<Checkpoint> mapped = Checkpoint::open_layers(dir.path(), spec, 1, 3);
    Result<Checkpoint> copied =
        Checkpoint::open_layers(dir.path(), spec, 1, 3, WeightPages::kHuge);
    Result<Checkpoint> head = Checkpoint::open_head(dir.path(), spec, WeightPages::kHuge);
    REQUIRE(mapped.ok());
    REQUIRE(copied.ok());
    REQUIRE(head.ok());
    CHECK(copied->copy().bytes == 0);  // opening reads nothing
    for (Checkpoint* checkpoint : {&*mapped, &*copied, &*head}) load_slices(*checkpoint, 8192);
    CHECK(copied->mapped_bytes() == 0);
    CHECK(mapped->copied_bytes() == 0);
    CHECK(mapped->copy().bytes == 0);
    CHECK(copied->copy().bytes == copied->copied_bytes());
    CHECK(copied->copied_bytes() < mapped->mapped_bytes() + 2 * 4096);

    const StageWeights& one = mapped->stage();
    const StageWeights& other = copied->stage();
    std::vector<kernel::Matrix> matrices = {head->head().head};
    for (size_t i = 0; i < one.layers.size(); ++i) {
        const auto same = [&](const void* a, const void* b, size_t bytes) {
            CHECK(a != b);
            CHECK(std::memcmp(a, b, bytes) == 0);
        };
        const size_t d = static_cast<size_t>(spec.hidden_size);
        same(one.layers[i].attn_norm, other.layers[i].attn_norm, d * sizeof(float));
        same(one.layers[i].bo, other.layers[i].bo, d * sizeof(float));
        same(one.layers[i].wq.values, other.layers[i].wq.values, d * d);
        same(one.layers[i].w2.values, other.layers[i].w2.values, d * d / 2);
        matrices.push_back(other.layers[i].wq);
        matrices.push_back(other.layers[i].w2);
    }
    for (const auto& file : {spec.partitions[0].file, spec.partitions[1].file, spec.head.file})
        std::filesystem::resize_file(dir.path() / file, 0);
    for (const kernel::Matrix& matrix : matrices) {
        CHECK(reinterpret_cast<uintptr_t>(matrix.values) % 64 == 0);
        (void)*static_cast<const volatile uint8_t*>(matrix.values);  // a map of the file faults
    }
}

TEST_CASE("files of another model, cut, version or range are refused") {
    struct Foreign {
        const char* field;
        const char* value;
        const char* message;
    };
    for (const Foreign& foreign : {
             Foreign{"model_id", "ffffffffffffffffffffffffffffffff", "partition of another model"},
             Foreign{"cut_id", "ffffffffffffffff", "partition of another cut"},
             Foreign{"numerics_abi", "2", "numerics_abi"},
             Foreign{"format_version", "2", "format_version"},
             Foreign{"format", "pt", "not a partition file"},
             Foreign{"layer_first", "1", "layer range"},
             Foreign{"layer_end", "9", "layer range"},
         }) {
        const TempDir dir;
        write_tiny(dir, {2, 3});
        ModelSpec spec = spec_of(dir);
        rewrite(dir, spec, 1,
                [&](auto&, Metadata& metadata) { metadata[foreign.field] = foreign.value; });
        check_refused(Checkpoint::open_layers(dir.path(), spec, 0, 3), foreign.message);
        CHECK(Checkpoint::open_layers(dir.path(), spec, 0, 2).ok());  // does not need that file
    }
}

TEST_CASE("partition files of two splits cannot be mixed") {
    const TempDir one;
    const TempDir two;
    write_tiny(one, {1, 3});
    write_tiny(two, {2, 3});
    const ModelSpec spec = spec_of(one);
    std::filesystem::copy_file(two.path() / "partition_head.safetensors",
                               one.path() / "partition_head.safetensors",
                               std::filesystem::copy_options::overwrite_existing);
    check_refused(Checkpoint::open_head(one.path(), spec), "partition of another cut");
}

TEST_CASE("a missing, short or damaged file is refused") {
    const TempDir dir;
    write_tiny(dir, {2, 3});
    const ModelSpec spec = spec_of(dir);
    const auto path = dir.path() / "partition_1.safetensors";
    std::vector<uint8_t> bytes = read_bytes(path);
    bytes[9] = '!';
    write_file(path, bytes);
    check_refused(Checkpoint::open_layers(dir.path(), spec, 0, 3), "not valid JSON");
    bytes.pop_back();
    write_file(path, bytes);
    check_refused(Checkpoint::open_layers(dir.path(), spec, 0, 3), "copy it again");
    std::filesystem::remove(path);
    check_refused(Checkpoint::open_layers(dir.path(), spec, 0, 3), "No such file");
}

TEST_CASE("every tensor is there, of its type and shape, and no other") {
    for (const TensorFault& fault : tensor_faults()) {
        const TempDir dir;
        write_tiny(dir, {3});
        ModelSpec spec = spec_of(dir);
        rewrite(dir, spec, 0, [&](auto& all, Metadata&) { fault.change(all); });
        check_refused(Checkpoint::open_layers(dir.path(), spec, 0, 3), fault.message);
    }
}
