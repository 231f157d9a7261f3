// Hostile files: every broken header is one clear line, never a crash.
#include "chatloop/model/safetensors.hpp"

#include <doctest/doctest.h>

#include <string>

#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;

namespace {

std::vector<uint8_t> small_file() {
    const std::vector<RawTensor> tensors = {
        {"a", "F32", {2, 3}, std::vector<uint8_t>(24, 1)},
        {"b", "F16", {5}, std::vector<uint8_t>(10, 2)},
        {"c", "I8", {64}, std::vector<uint8_t>(64, 3)},
    };
    return safetensors_bytes(tensors, {{"format", "chatloop-partition"}});
}

Result<SafetensorsHeader> parse(const std::vector<uint8_t>& file) {
    return parse_safetensors_header(file, file.size(), "file");
}

void check_one_line(const Error& error) {
    CHECK(error.code == ErrorCode::kBadFile);
    CHECK(error.message.find('\n') == std::string::npos);
    CHECK(error.message.size() < 300);
}

// The header text of one U8 tensor "t" with these fields.
std::string tensor_header(const std::string& fields) { return "{\"t\":{" + fields + "}}"; }

struct BadHeader {
    const char* message;  // what the error must say
    std::string header;
    size_t data_bytes;
};

std::vector<BadHeader> bad_headers() {
    const std::string twice = R"({"t":{"dtype":"U8","shape":[64],"data_offsets":[0,64]},)"
                              R"("t":{"dtype":"U8","shape":[64],"data_offsets":[64,128]}})";
    const std::string overlap = R"({"t":{"dtype":"U8","shape":[128],"data_offsets":[0,128]},)"
                                R"("u":{"dtype":"U8","shape":[64],"data_offsets":[64,128]}})";
    const std::string hole = R"({"t":{"dtype":"U8","shape":[64],"data_offsets":[0,64]},)"
                             R"("u":{"dtype":"U8","shape":[64],"data_offsets":[128,192]}})";
    const std::string deep = std::string(4000, '[') + std::string(4000, ']');
    const std::string two_to_63 = "9223372036854775808";
    return {
        {"not valid JSON", "", 0},
        {"not valid JSON", "{", 0},
        {"not valid JSON", "{} {}", 0},
        {"not valid JSON", "{\"t\": 1e999}", 0},
        {"not valid JSON", "{\"\xff\": 1}", 0},
        {"nested deeper", deep, 0},
        {"nested deeper", "{\"t\":" + deep, 0},
        {"not a JSON object", "[]", 0},
        {"not a JSON object", "7", 0},
        {"__metadata__ is not an object", R"({"__metadata__":[]})", 0},
        {"is not a string", R"({"__metadata__":{"format":1}})", 0},
        {"is not an object", R"({"t":[1,2]})", 0},
        {"is not an object", R"({"t":null})", 0},
        {"bad name length", R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1},
        {"bad name length",
         "{\"" + std::string(300, 'n') + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
         1},
        {"duplicate key \"t\"", twice, 128},
        {"duplicate key \"shape\"", tensor_header(R"("shape":[1],"shape":[1])"), 1},
        {"\"dtype\" is missing", tensor_header(R"("shape":[64],"data_offsets":[0,64])"), 64},
        {"\"dtype\" is not a string",
         tensor_header(R"("dtype":3,"shape":[1],"data_offsets":[0,1])"), 1},
        {"\"dtype\" is not one of",
         tensor_header(R"("dtype":"F64","shape":[8],"data_offsets":[0,64])"), 64},
        {"\"shape\" is missing", tensor_header(R"("dtype":"U8","data_offsets":[0,64])"), 64},
        {"\"shape\" is not an array",
         tensor_header(R"("dtype":"U8","shape":64,"data_offsets":[0,64])"), 64},
        {"\"shape\" is not an array",
         tensor_header(R"("dtype":"U8","shape":[],"data_offsets":[0,1])"), 1},
        {"\"shape\" is not an array",
         tensor_header(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"), 1},
        {"bad dimension", tensor_header(R"("dtype":"U8","shape":[0],"data_offsets":[0,0])"), 0},
        {"bad dimension", tensor_header(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), 1},
        {"bad dimension", tensor_header(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])"), 1},
        {"bad dimension", tensor_header(R"("dtype":"U8","shape":["1"],"data_offsets":[0,1])"), 1},
        {"too large",
         tensor_header(R"("dtype":"U8","shape":[4294967296,4294967297],"data_offsets":[0,1])"), 1},
        {"too large",
         tensor_header("\"dtype\":\"F32\",\"shape\":[" + two_to_63 + "],\"data_offsets\":[0,0]"),
         0},
        {"\"data_offsets\" is missing", tensor_header(R"("dtype":"U8","shape":[64])"), 64},
        {"\"data_offsets\" is not an array",
         tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[0])"), 64},
        {"ascending pair", tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[64,0])"), 64},
        {"ascending pair",
         tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[-64,0])"), 64},
        {"ascending pair",
         tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[0.0,64])"), 64},
        {"ends beyond the file",
         tensor_header(R"("dtype":"U8","shape":[65],"data_offsets":[0,65])"), 64},
        {"ends beyond the file",
         tensor_header(R"("dtype":"U8","shape":[64],)"
                       R"("data_offsets":[18446744073709551552,18446744073709551615])"),
         64},
        {"its shape needs",
         tensor_header(R"("dtype":"U8","shape":[63],"data_offsets":[0,64])"), 64},
        {"its shape needs",
         tensor_header(R"("dtype":"F32","shape":[64],"data_offsets":[0,64])"), 64},
        {"multiple of 64", tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[1,65])"), 65},
        {"overlaps another", overlap, 128},
        {"hole before", hole, 192},
        {"hole before", tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[64,128])"), 128},
        {"bytes after the last",
         tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[0,64])"), 65},
        {"unknown field",
         tensor_header(R"("dtype":"U8","shape":[64],"data_offsets":[0,64],"x":1)"), 64},
    };
}

}  // namespace

TEST_CASE("a valid file is mapped and its tensors are found") {
    const TempDir dir;
    const auto path = dir.path() / "file.safetensors";
    write_file(path, small_file());
    Result<SafetensorsFile> file = SafetensorsFile::open(path);
    REQUIRE(file.ok());
    const TensorInfo* b = file->find("b");
    REQUIRE(b != nullptr);
    CHECK(b->dtype == Dtype::kF16);
    CHECK(b->shape == std::vector<uint64_t>{5});
    CHECK(b->bytes == 10);
    CHECK(reinterpret_cast<uintptr_t>(file->data(*b)) % 64 == 0);
    CHECK(file->data(*b)[9] == 2);
    CHECK(file->find("d") == nullptr);
    CHECK(file->header().metadata.at("format") == "chatloop-partition");

    const SafetensorsFile moved = std::move(*file);
    CHECK(moved.data(*moved.find("c"))[63] == 3);
}

TEST_CASE("every broken header is refused with its own line") {
    for (const BadHeader& bad : bad_headers()) {
        CAPTURE(bad.header.substr(0, 200));
        const Result<SafetensorsHeader> header = parse(with_header(bad.header, bad.data_bytes));
        REQUIRE_FALSE(header.ok());
        CAPTURE(header.error().message);
        CHECK(header.error().message.find(bad.message) != std::string::npos);
        check_one_line(header.error());
    }
}

TEST_CASE("hostile names do not reach the error line raw") {
    const auto file = with_header("{\"a\\nb\\u001b[31m\": 1}", 0);
    const Result<SafetensorsHeader> header = parse(file);
    REQUIRE_FALSE(header.ok());
    check_one_line(header.error());
    CHECK(header.error().message.find('\x1b') == std::string::npos);
}

TEST_CASE("the header length is checked against the file and the page grid") {
    std::vector<uint8_t> file = small_file();
    for (uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{4087}, uint64_t{4089},
                            uint64_t{file.size()}, uint64_t{1} << 40, UINT64_MAX - 7, UINT64_MAX}) {
        CAPTURE(length);
        for (size_t i = 0; i < 8; ++i) file[i] = static_cast<uint8_t>(length >> (8 * i));
        const Result<SafetensorsHeader> header = parse(file);
        REQUIRE_FALSE(header.ok());
        check_one_line(header.error());
    }
}

TEST_CASE("every truncation of a valid file is an error") {
    const std::vector<uint8_t> file = small_file();
    REQUIRE(parse(file).ok());
    for (size_t bytes = 0; bytes < file.size(); ++bytes) {
        const std::vector<uint8_t> part(file.begin(), file.begin() + static_cast<ptrdiff_t>(bytes));
        const Result<SafetensorsHeader> header = parse(part);
        if (header.ok()) FAIL_CHECK("accepted " << bytes << " of " << file.size() << " bytes");
    }
}

TEST_CASE("random damage to the header never crashes and never yields bytes outside of the file") {
    const std::vector<uint8_t> valid = small_file();
    Random random(7);
    int accepted = 0;
    for (int round = 0; round < 20000; ++round) {
        std::vector<uint8_t> file = valid;
        const int changes = random.integer(1, 3);
        for (int i = 0; i < changes; ++i) {
            file[static_cast<size_t>(random.integer(0, 420))] =
                static_cast<uint8_t>(random.integer(0, 255));
        }
        const Result<SafetensorsHeader> header = parse(file);
        if (!header.ok()) continue;
        ++accepted;
        for (const auto& [name, tensor] : header->tensors) {
            REQUIRE(tensor.offset <= file.size());
            REQUIRE(tensor.bytes <= file.size() - tensor.offset);
        }
    }
    CHECK(accepted > 0);  // a letter of a name may change
}

TEST_CASE("what is not a readable regular file is an error") {
    const TempDir dir;
    write_file(dir.path() / "short", std::string("1234567"));
    for (const char* name : {"absent", "short", "."}) {
        CAPTURE(name);
        const Result<SafetensorsFile> file = SafetensorsFile::open(dir.path() / name);
        REQUIRE_FALSE(file.ok());
        check_one_line(file.error());
    }
}
