#include "chatloop/model/file_check.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <optional>

#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;

namespace {

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

std::string text_in(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Slices until the file is found sound, or nullopt when it is refused.
std::optional<int> slices_to_verify(const std::filesystem::path& path, const std::string& sha256) {
    const Result<FileMap> file = FileMap::open(path);
    REQUIRE(file.ok());
    FileVerifier verifier(*file, sha256);
    for (int slices = 1;; ++slices) {
        const Result<bool> done = verifier.step(4096);
        if (!done.ok()) return std::nullopt;
        if (*done) return slices;
    }
}

constexpr int kSlices = 5;
const std::string kText(4096 * kSlices - 7, 'x');

}  // namespace

TEST_CASE("SHA-256 of known texts, whole and in pieces") {
    CHECK(sha256_of({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256_of(bytes_of("abc")) ==
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    Sha256 hash;
    for (int i = 0; i < 1000; ++i) hash.update(std::vector<uint8_t>(1000, 'a'));
    CHECK(hash.finish() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("a stamp spares later starts the hash, and fits this very file only") {
    const TempDir dir;
    const auto path = dir.path() / "weights";
    const auto stamp = dir.path() / "weights.verified";
    write_file(path, kText);
    const std::string sha256 = sha256_of(bytes_of(kText));
    CHECK(slices_to_verify(path, sha256) == kSlices);
    CHECK(slices_to_verify(path, sha256) == 1);
    CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);

    SUBCASE("another sha256 in the metadata") {
        CHECK(slices_to_verify(path, std::string(64, '0')) == std::nullopt);
    }
    SUBCASE("a damaged file, its time of modification put back") {
        const auto time = std::filesystem::last_write_time(path);
        write_file(path, std::string(kText.size(), 'y'));
        std::filesystem::last_write_time(path, time);
        CHECK(slices_to_verify(path, sha256) == std::nullopt);
        CHECK(slices_to_verify(path, sha256) == std::nullopt);
    }
    SUBCASE("a copy of file and stamp") {
        const auto copy = dir.path() / "copy";
        std::filesystem::copy_file(path, copy);
        std::filesystem::copy_file(stamp, dir.path() / "copy.verified");
        CHECK(slices_to_verify(copy, sha256) == kSlices);
    }
    SUBCASE("a damaged stamp") {
        for (const std::string& damaged :
             {std::string(), text_in(stamp) + "x", std::string(99, 's')}) {
            write_file(stamp, damaged);
            CHECK(slices_to_verify(path, sha256) == kSlices);
            CHECK(slices_to_verify(path, sha256) == 1);
        }
    }
}

TEST_CASE("where no stamp can be written the file is sound all the same, and checked each time") {
    const TempDir dir;
    const auto path = dir.path() / "weights";
    write_file(path, kText);
    std::filesystem::create_directory(dir.path() / "weights.verified");  // also stops root
    const std::string sha256 = sha256_of(bytes_of(kText));
    CHECK(slices_to_verify(path, sha256) == kSlices);
    CHECK(slices_to_verify(path, sha256) == kSlices);
    CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);

    const Result<FileMap> file = FileMap::open(path);
    REQUIRE(file.ok());
    FileVerifier verifier(*file, sha256);
    REQUIRE(verifier.step(1 << 20).ok());
    CHECK(verifier.outcome().find("cannot be written") != std::string::npos);
}

TEST_CASE("a small file is checked at once") {
    const TempDir dir;
    write_file(dir.path() / "a.json", std::string("abc"));
    const FileEntry sound = {"a.json", 3, sha256_of(bytes_of("abc"))};
    CHECK(verify_file(dir.path(), sound).ok());
    FileEntry other_size = sound;
    other_size.bytes = 4;
    FileEntry other_bytes = sound;
    other_bytes.sha256[0] ^= 1;
    FileEntry missing = sound;
    missing.file = "b.json";
    for (const FileEntry& entry : {other_size, other_bytes, missing}) {
        const Status refused = verify_file(dir.path(), entry);
        REQUIRE_FALSE(refused.ok());
        CHECK(refused.error().message.find(entry.file) != std::string::npos);
    }
}
