// A file mapped read-only and shared: the bytes on disk are the bytes that the kernels read.
//
// A file that is truncated while it is mapped, or that the disk cannot deliver, faults (SIGBUS) at
// the next touch of a lost page. With report_lost_pages() that ends the process with one line that
// names the file. Replace files by renaming, never in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "chatloop/core/result.hpp"

namespace chatloop {

// What tells whether a file is still the one that was looked at.
struct FileIdentity {
    uint64_t bytes = 0;
    uint64_t inode = 0;
    int64_t mtime_ns = 0;
    int64_t ctime_ns = 0;

    bool operator==(const FileIdentity&) const = default;
};

class FileMap {
public:
    // kBadFile: no regular file, empty, or not readable; kUnsupported: kMappedFilesMax are mapped.
    static Result<FileMap> open(const std::filesystem::path& path);

    FileMap() = default;
    FileMap(FileMap&& other) noexcept;
    FileMap& operator=(FileMap&& other) noexcept;
    ~FileMap();

    const std::string& name() const { return name_; }  // the path, for errors
    const uint8_t* data() const { return data_; }      // nullptr: nothing is mapped
    uint64_t bytes() const { return identity_.bytes; }
    const FileIdentity& identity() const { return identity_; }  // when it was opened

    // Takes the pages out of this process's memory; the next touch reads them again.
    void drop_pages() const;
    void unmap();

private:
    std::string name_;
    const uint8_t* data_ = nullptr;
    FileIdentity identity_;
};

// From now on a fault in a mapped file writes "actor: file: what, cure" and ends the process with
// `exit_code`; any other SIGBUS keeps its default action. Called once, before files are opened.
void report_lost_pages(const std::string& actor, int exit_code);

}  // namespace chatloop
