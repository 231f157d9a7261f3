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
#include <optional>

#include "chatloop/core/limits.hpp"

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

using Texts = std::vector<std::string>;

// What the files hold; a stream's key is the first two characters of it.
Texts restored(JournalFiles& files, size_t cut = 0, bool has_room = true) {
    Texts found;
    files.restore([&](wire::ByteView bytes) -> std::optional<http::Api::Restored> {
        const std::string text(bytes.begin(), bytes.end());
        found.push_back(text);
        if (!has_room) return http::Api::Restored{};
        if (text.size() <= cut) return std::nullopt;
        return http::Api::Restored{text.substr(0, 2), text.size() - cut, false};
    });
    return found;
}

}  // namespace

TEST_CASE("what was written is there for the next process, the oldest first") {
    Folder folder;
    {
        const auto files = opened(folder.at("new"));
        REQUIRE(files->begin("bb", bytes_of("bb one ")).ok());
        REQUIRE(files->begin("aa", bytes_of("aa two ")).ok());
        REQUIRE(files->begin("cc", bytes_of("cc three")).ok());
        CHECK(files->append("aa", bytes_of("more")));
        files->drop("cc");
        files->drop("dd");  // nobody's
        CHECK_FALSE(files->append("cc", bytes_of("x")));
        CHECK(files->bytes() == 18);
        CHECK(files->write_errors() == 0);
    }
    const auto next = opened(folder.at("new"));
    CHECK(restored(*next) == Texts{"bb one ", "aa two more"});
    CHECK(next->restored() == 2);
    CHECK(next->bytes() == 18);
    CHECK(next->append("bb", bytes_of("and one")));
    REQUIRE(next->begin("ee", bytes_of("five")).ok());
    next->drop("aa");
    struct stat info {};
    REQUIRE(stat(folder.at("new").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0700);
    CHECK(next->bytes() == 18);
}

TEST_CASE("the end of a file that is of no use is cut off; one without any is deleted") {
    Folder folder;
    opened(folder.at("j"))->begin("aa", bytes_of("aa34567890")).ok();
    CHECK(restored(*opened(folder.at("j")), 4) == Texts{"aa34567890"});
    {
        const auto files = opened(folder.at("j"));
        CHECK(restored(*files) == Texts{"aa3456"});
        CHECK(files->append("aa", bytes_of("x")));
        files->close("aa");
        CHECK_FALSE(files->append("aa", bytes_of("y")));
    }
    {
        const auto files = opened(folder.at("j"));
        CHECK(restored(*files, 7) == Texts{"aa3456x"});
        CHECK(files->lost() == 1);
        CHECK(files->bytes() == 0);
        CHECK_FALSE(files->append("aa", bytes_of("y")));
    }
    CHECK(restored(*opened(folder.at("j"))).empty());
}

TEST_CASE("what is no stream is left alone, as is what cannot be read or has no room") {
    Folder folder;
    folder.write("notes.txt", "a");
    folder.write("1.stream", "too few digits");
    folder.write("000000000001.stream.old", "");
    std::filesystem::create_directory(folder.path / "000000000002.stream");
    std::filesystem::create_symlink("/dev/zero", folder.path / "000000000003.stream");
    folder.write("000000000004.stream", std::string(kJournalStreamBytesMax + 1, 'x'));
    folder.write("000000000005.stream", "ac good");
    {
        const auto files = opened(folder.path.string());
        CHECK(restored(*files, 0, false) == Texts{"ac good"});
        CHECK(files->lost() == 4);
    }
    const auto files = opened(folder.path.string());
    CHECK(restored(*files) == Texts{"ac good"});
    CHECK(files->lost() == 3);
    for (const char* name : {"notes.txt", "1.stream", "000000000004.stream"})
        CHECK(std::filesystem::exists(folder.path / name));
    REQUIRE(files->begin("ad", bytes_of("z")).ok());
    CHECK(std::filesystem::exists(folder.path / "000000000006.stream"));
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
    CHECK_FALSE(std::filesystem::exists(folder.path / "j" / "000000000002.stream"));
    CHECK(std::filesystem::file_size(folder.path / "j" / "000000000001.stream") == 13);
}
