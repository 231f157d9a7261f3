// The journal's folder: what is written is there for the next process, in the order of its
// beginning, and what is no stream does no harm.
#include "actors/journal_files.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

using namespace chatloop;
using namespace chatloop::actors;

namespace {

struct Folder {
    std::filesystem::path path;
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "journal-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string at(const std::string& name) const { return (path / name).string(); }
    void write(const std::string& name, const std::string& text) const {
        std::ofstream(path / name) << text;
    }
};

wire::Bytes bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

std::unique_ptr<JournalFiles> opened(const std::string& folder) {
    Result<std::unique_ptr<JournalFiles>> files = JournalFiles::open(folder);
    REQUIRE(files.ok());
    return std::move(*files);
}

using Streams = std::vector<std::pair<std::string, std::string>>;  // key and bytes

Streams restored(JournalFiles& files, size_t cut = 0) {
    Streams found;
    files.restore([&](const std::string& key, wire::ByteView bytes) {
        found.emplace_back(key, std::string(bytes.begin(), bytes.end()));
        return bytes.size() - std::min(cut, bytes.size());
    });
    return found;
}

}  // namespace

TEST_CASE("what was written is there for the next process, the oldest first") {
    Folder folder;
    {
        const auto files = opened(folder.at("new"));
        REQUIRE(files->begin("bb", bytes_of("one ")).ok());
        REQUIRE(files->begin("aa", bytes_of("two ")).ok());
        REQUIRE(files->begin("cc", bytes_of("three")).ok());
        CHECK(files->append("aa", bytes_of("more")));
        files->drop("cc");
        files->drop("dd");  // nobody's
        CHECK_FALSE(files->append("cc", bytes_of("x")));
        CHECK(files->bytes() == 12);
        CHECK(files->write_errors() == 0);
    }
    const auto next = opened(folder.at("new"));
    CHECK(restored(*next) == Streams{{"bb", "one "}, {"aa", "two more"}});
    CHECK(next->restored() == 2);
    CHECK(next->bytes() == 12);
    CHECK(next->append("bb", bytes_of("and one")));
    REQUIRE(next->begin("ee", bytes_of("five")).ok());
    next->drop("aa");
    struct stat info {};
    REQUIRE(stat(folder.at("new").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0700);
    CHECK(next->bytes() == 15);
}

TEST_CASE("the end of a file that is of no use is cut off; one without any is deleted") {
    Folder folder;
    opened(folder.at("j"))->begin("aa", bytes_of("0123456789")).ok();
    CHECK(restored(*opened(folder.at("j")), 4) == Streams{{"aa", "0123456789"}});
    {
        const auto files = opened(folder.at("j"));
        CHECK(restored(*files) == Streams{{"aa", "012345"}});
        CHECK(files->append("aa", bytes_of("x")));
    }
    {
        const auto files = opened(folder.at("j"));
        CHECK(restored(*files, 7) == Streams{{"aa", "012345x"}});
        CHECK(files->lost() == 1);
        CHECK(files->bytes() == 0);
        CHECK_FALSE(files->append("aa", bytes_of("y")));
    }
    CHECK(restored(*opened(folder.at("j"))).empty());
}

TEST_CASE("what is no stream's file is left alone, or lost") {
    Folder folder;
    folder.write("notes.txt", "a");
    folder.write("1-aa", "too few digits");
    folder.write("000000000001-../x", "");
    folder.write("000000000002-XYZ", "no key");
    std::filesystem::create_directory(folder.path / "000000000003-aa");
    std::filesystem::create_symlink("/dev/zero", folder.path / "000000000004-ab");
    folder.write("000000000005-ac", "good");
    folder.write("000000000006-ac", "the same key once more");
    const auto files = opened(folder.path.string());
    CHECK(restored(*files) == Streams{{"ac", "good"}});
    CHECK(files->lost() == 3);
    CHECK(std::filesystem::exists(folder.path / "notes.txt"));
    CHECK(std::filesystem::exists(folder.path / "1-aa"));
    REQUIRE(files->begin("ad", bytes_of("z")).ok());
    CHECK(std::filesystem::exists(folder.path / "000000000007-ad"));
}

TEST_CASE("a folder has one process, and must be one") {
    Folder folder;
    {
        const auto files = opened(folder.at("j"));
        const auto second = JournalFiles::open(folder.at("j"));
        REQUIRE_FALSE(second.ok());
        CHECK(second.error().message.find("another router uses it") != std::string::npos);
    }
    opened(folder.at("j"));
    folder.write("file", "");
    for (const char* name : {"file", "no/parent"}) {
        CHECK_FALSE(JournalFiles::open(folder.at(name)).ok());
        CHECK_FALSE(JournalFiles::check(folder.at(name)).ok());
    }
    CHECK(JournalFiles::check(folder.at("j")).ok());
    CHECK(JournalFiles::check(folder.at("not made yet")).ok());
    CHECK_FALSE(std::filesystem::exists(folder.path / "not made yet"));
}

TEST_CASE("a write that fails leaves whole records, and is told and counted") {
    Folder folder;
    const auto files = opened(folder.at("j"));
    REQUIRE(files->begin("aa", bytes_of("0123456789")).ok());
    rlimit before {};
    getrlimit(RLIMIT_FSIZE, &before);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{16, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK(files->append("aa", bytes_of("abc")));
    CHECK_FALSE(files->append("aa", bytes_of("0123456789")));  // a part of it fits
    CHECK_FALSE(files->append("aa", bytes_of("d")));           // a gap would be worse than an end
    const Status begun = files->begin("bb", wire::Bytes(100));
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    REQUIRE_FALSE(begun.ok());
    CHECK(begun.error().message.find("cannot be written") != std::string::npos);
    CHECK(files->write_errors() == 2);
    CHECK(files->bytes() == 13);
    REQUIRE(files->begin("bb", bytes_of("again")).ok());
    files->drop("bb");
    CHECK_FALSE(std::filesystem::exists(folder.path / "j" / "000000000002-bb"));
    CHECK(std::filesystem::file_size(folder.path / "j" / "000000000001-aa") == 13);
}
