#include "chatloop/model/file_check.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iterator>

namespace chatloop {
namespace {

Error bad_file(const std::string& name, const std::string& what) {
    return Error{ErrorCode::kBadFile, name + ": " + what};
}

Error other_bytes(const std::string& name) {
    return bad_file(name, "damaged: its sha256 is not the one in " + std::string(kMetadataFile) +
                              "; copy it again");
}

// 0, or errno.
int write_whole(const std::string& path, const std::string& text) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor < 0) return errno;
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    const int error = written < 0 ? errno : EIO;
    ::close(descriptor);
    return written == static_cast<ssize_t>(text.size()) ? 0 : error;
}

}  // namespace

FileVerifier::FileVerifier(const FileMap& file, std::string sha256)
    : name_(file.name()),
      data_(file.data()),
      identity_(file.identity()),
      sha256_(std::move(sha256)) {}

Result<bool> FileVerifier::step(uint64_t bytes) {
    CL_ASSERT(!done_);
    if (offset_ == 0 && has_stamp()) {
        outcome_ = name_ + ": sha256 was checked before, " + stamp_path() + " fits";
        done_ = true;
        return true;
    }
    const uint64_t count = std::min(bytes, identity_.bytes - offset_);
    hash_.update({data_ + offset_, count});
    offset_ += count;
    if (offset_ < identity_.bytes) return false;
    if (hash_.finish() != sha256_) return other_bytes(name_);
    done_ = true;
    write_stamp();
    return true;
}

std::string FileVerifier::stamp_text() const {
    return "sha256 " + sha256_ + "\nbytes " + std::to_string(identity_.bytes) + "\ninode " +
           std::to_string(identity_.inode) + "\nmtime_ns " + std::to_string(identity_.mtime_ns) +
           "\nctime_ns " + std::to_string(identity_.ctime_ns) + "\n";
}

bool FileVerifier::has_stamp() const {
    const std::string expected = stamp_text();
    std::ifstream in(stamp_path(), std::ios::binary);
    std::string found(expected.size() + 1, '\0');
    in.read(found.data(), static_cast<std::streamsize>(found.size()));
    found.resize(static_cast<size_t>(in.gcount()));
    return found == expected;
}

void FileVerifier::write_stamp() {
    const std::string part = stamp_path() + "." + std::to_string(::getpid());
    int error = write_whole(part, stamp_text());
    if (error == 0 && std::rename(part.c_str(), stamp_path().c_str()) != 0) error = errno;
    outcome_ = name_ + ": sha256 checked";
    if (error == 0) return;
    ::unlink(part.c_str());
    outcome_ += "; every start checks it, as " + stamp_path() +
                " cannot be written: " + std::generic_category().message(error);
}

Status verify_file(const std::filesystem::path& model_dir, const FileEntry& entry) {
    Result<FileMap> file = FileMap::open(model_dir / entry.file);
    if (!file) return file.error();
    if (file->bytes() != entry.bytes) {
        return bad_file(file->name(), "has " + std::to_string(file->bytes()) + " bytes, " +
                                          std::string(kMetadataFile) + " says " +
                                          std::to_string(entry.bytes) + ": copy it again");
    }
    Sha256 hash;
    hash.update({file->data(), file->bytes()});
    if (hash.finish() != entry.sha256) return other_bytes(file->name());
    return Ok{};
}

}  // namespace chatloop
