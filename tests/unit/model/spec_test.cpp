#include "chatloop/model/spec.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "chatloop/model/fingerprint.hpp"
#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;
using nlohmann::json;

namespace {

json tiny_metadata() {
    const TempDir dir;
    TinyModel(TinyOptions{}).write(dir.path(), {2, 3});
    std::ifstream file(dir.path() / kMetadataFile);
    return json::parse(file);
}

Result<ModelSpec> parse(const json& root) { return parse_spec(root.dump(), "metadata"); }

struct Change {
    const char* pointer;  // RFC 6901
    json value;
    const char* message;
};

std::vector<Change> bad_changes() {
    return {
        {"/format", "gguf", "\"format\" is not"},
        {"/model_id", "0123", "\"model_id\" is not 32"},
        {"/model_id", std::string(32, 'X'), "\"model_id\" is not 32"},
        {"/cut_id", 7, "\"cut_id\" is not a string"},
        {"/model_name", "", "\"model_name\" is not between"},
        {"/model_name", std::string(300, 'm'), "\"model_name\" is not between"},
        {"/hidden_size", 0, "\"hidden_size\" is 0"},
        {"/hidden_size", -64, "\"hidden_size\" is -64"},
        {"/hidden_size", 64.0, "\"hidden_size\" is not an integer"},
        {"/hidden_size", "64", "\"hidden_size\" is not an integer"},
        {"/hidden_size", 65537, "\"hidden_size\" is 65537"},
        {"/ffn_size", UINT64_MAX, "\"ffn_size\" is 18446744073709551615"},
        {"/n_layers", nullptr, "\"n_layers\" is not an integer"},
        {"/n_layers", 4, "partitions end at layer 3 of 4"},
        {"/n_kv_heads", 3, "\"n_heads\" is not a multiple"},
        {"/head_dim", 1, "\"head_dim\" is 1"},
        {"/vocab_size", 1, "\"bos_id\" is 1"},
        {"/context_length", 262145, "\"context_length\" is 262145"},
        {"/rot_dim", 15, "\"rot_dim\" is odd"},
        {"/rot_dim", 18, "\"rot_dim\" is larger"},
        {"/norm_eps", -1e-5, "\"norm_eps\" is"},
        {"/norm_eps", "0", "\"norm_eps\" is not a number"},
        {"/attn_scale", 0.0, "\"attn_scale\" is 0.0"},
        {"/attn_scale", 1e39, "\"attn_scale\" is 1e+39"},
        {"/embedding_scale", true, "\"embedding_scale\" is not a number"},
        {"/residual_scale", 1e-60, "\"residual_scale\" is"},
        {"/logit_softcap", -1.0, "\"logit_softcap\" is"},
        {"/eos_id", 100, "\"eos_id\" is 100"},
        {"/bos_id", -2, "\"bos_id\" is -2"},
        {"/add_bos", 1, "\"add_bos\" is not true or false"},
        {"/stop_ids", {0, 100}, "\"stop_ids\" has an element"},
        {"/stop_ids", {-1}, "\"stop_ids\" has an element"},
        {"/stop_ids", 0, "\"stop_ids\" is not an array"},
        {"/source", "file", "\"source\" is not an object"},
        {"/source/sha256", "00", "source: \"sha256\" is not 64"},
        {"/partitions", json::array(), "\"partitions\" is not an array of 1"},
        {"/partitions/1", 3, "partitions[1]: is not an object"},
        {"/partitions/0/file", "../x", "plain file name"},
        {"/partitions/0/file", "..", "plain file name"},
        {"/partitions/1/file", "partition_0.safetensors", "is named twice"},
        {"/partitions/1/file", "partition_head.safetensors", "is named twice"},
        {"/partitions/0/layer_first", 1, "partitions[0]: \"layer_first\" is not 0"},
        {"/partitions/1/layer_first", 1, "partitions[1]: \"layer_first\" is not 2"},
        {"/partitions/1/layer_end", 2, "\"layer_end\" is not above"},
        {"/partitions/1/layer_end", 4, "\"layer_end\" is 4"},
        {"/partitions/0/has_embedding", false, "must be true for the first"},
        {"/partitions/1/has_embedding", true, "must be true for the first"},
        {"/partitions/0/bytes", 0, "\"bytes\" is 0"},
        {"/partitions/0/bytes", -1, "\"bytes\" is -1"},
        {"/partitions/0/sha256", std::string(64, 'g'), "\"sha256\" is not 64"},
        {"/partitions/0/extra", 1, "unknown field \"extra\""},
        {"/head/bytes", 1.5, "head: \"bytes\" is not an integer"},
        {"/activation", "gelu", "unknown field \"activation\""},
    };
}

}  // namespace

TEST_CASE("valid metadata is read field by field") {
    const Result<ModelSpec> spec = parse(tiny_metadata());
    REQUIRE(spec.ok());
    CHECK(spec->model_name == "Tiny");
    CHECK(spec->hidden_size == 64);
    CHECK(spec->q_width() == 64);
    CHECK(spec->kv_width() == 32);
    CHECK(spec->norm_eps == 1e-5f);
    CHECK(spec->stop_ids == std::vector<int32_t>{0, 2});
    REQUIRE(spec->partitions.size() == 2);
    CHECK(spec->partitions[1].layer_first == 2);
    CHECK(spec->head.file == "partition_head.safetensors");
}

TEST_CASE("every bad field is refused, naming it") {
    for (const Change& change : bad_changes()) {
        CAPTURE(change.pointer);
        json root = tiny_metadata();
        root[json::json_pointer(change.pointer)] = change.value;
        const Result<ModelSpec> spec = parse(root);
        REQUIRE_FALSE(spec.ok());
        CAPTURE(spec.error().message);
        CHECK(spec.error().code == ErrorCode::kBadFile);
        CHECK(spec.error().message.find(change.message) != std::string::npos);
        CHECK(spec.error().message.find('\n') == std::string::npos);
    }
}

TEST_CASE("every field is required") {
    const json root = tiny_metadata();
    for (const char* at : {"", "/partitions/0", "/partitions/1", "/head"}) {
        for (const auto& item : root.at(json::json_pointer(at)).items()) {
            CAPTURE(at);
            CAPTURE(item.key());
            json without = root;
            without[json::json_pointer(at)].erase(item.key());
            const Result<ModelSpec> spec = parse(without);
            REQUIRE_FALSE(spec.ok());
            const std::string wanted = "\"" + item.key() + "\" is missing";
            CHECK(spec.error().message.find(wanted) != std::string::npos);
        }
    }
}

TEST_CASE("another version is unsupported, not damaged") {
    for (const char* field : {"format_version", "numerics_abi"}) {
        json root = tiny_metadata();
        root[field] = 2;
        const Result<ModelSpec> spec = parse(root);
        REQUIRE_FALSE(spec.ok());
        CHECK(spec.error().code == ErrorCode::kUnsupported);
    }
}

TEST_CASE("text that is no metadata never crashes") {
    const std::string valid = tiny_metadata().dump();
    const std::string twice = R"({"a":1,"a":2})";
    for (const std::string& text : {std::string(), twice, std::string("[]"), std::string("null"),
                                    std::string("{}"), std::string("\xff\xfe"),
                                    std::string(100000, '[')}) {
        CHECK_FALSE(parse_spec(text, "metadata").ok());
    }
    for (size_t bytes = 0; bytes < valid.size(); bytes += 3) {
        CHECK_FALSE(parse_spec(std::string_view(valid).substr(0, bytes), "metadata").ok());
    }
    const Result<ModelSpec> absent = read_spec("/nonexistent-model-directory");
    REQUIRE_FALSE(absent.ok());
    CHECK(absent.error().message.find("split_model.py") != std::string::npos);
}

TEST_CASE("the fingerprint follows the model and the KV type, and nothing else") {
    ModelSpec spec = parse(tiny_metadata()).value();
    const auto f16 = [&] { return numerics_fingerprint(spec, kernel::KvType::kF16); };
    const Fingerprint first = f16();
    CHECK(first.text().size() == 16);
    CHECK(first.text() == f16().text());
    const Fingerprint int8 = numerics_fingerprint(spec, kernel::KvType::kInt8);
    const Fingerprint none = numerics_fingerprint(spec, std::nullopt);
    CHECK_FALSE(int8 == first);
    CHECK_FALSE(none == first);
    CHECK_FALSE(none == int8);
    spec.cut_id = std::string(16, 'f');
    CHECK(f16() == first);
    spec.model_id[0] = 'f';
    CHECK_FALSE(f16() == first);
    CHECK(Fingerprint{0x1f}.text() == "000000000000001f");
}
