// The files of the journal of resumable streams (http/journal.hpp): a folder, a file in it for each
// stream, "NUMBER.stream" in the order of their beginning. Names tell nothing: who has a stream's
// key can read it. Written to the page cache and not synced: they outlive the process, not a host
// that loses its power.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "chatloop/core/result.hpp"
#include "chatloop/http/api.hpp"

namespace chatloop::actors {

class JournalFiles final : public http::Journal {
public:
    // Takes the folder, which is made if it is missing (but not its parents), for this process
    // alone. kBadFile: it cannot be used, or another process has it.
    static Result<std::unique_ptr<JournalFiles>> open(const std::string& folder);
    // Whether it could be taken, as far as can be seen without a change.
    static Status check(const std::string& folder);
    ~JournalFiles() override;

    // Reads every stream, the oldest first. A file of which nothing can be taken is deleted; one
    // that cannot be read, or for which there is no room (an empty key), stays for another start.
    using Take = std::function<std::optional<http::Api::Restored>(wire::ByteView bytes)>;
    void restore(const Take& take);

    Status begin(const std::string& key, wire::ByteView records) override;
    bool append(const std::string& key, wire::ByteView records) override;
    void close(const std::string& key) override;
    void drop(const std::string& key) override;

    uint64_t bytes() const { return bytes_; }            // of all files
    uint64_t write_errors() const { return write_errors_; }
    uint64_t restored() const { return restored_; }      // streams
    uint64_t lost() const { return lost_; }              // files that were not taken

private:
    struct File {
        std::string name;
        int descriptor = -1;  // -1: nothing more is appended
        uint64_t bytes = 0;
    };
    JournalFiles(std::string folder, int folder_descriptor, int lock);
    void restore_one(const std::string& name, const Take& take);
    void lose(const std::string& name, const std::string& why);
    bool write(File& file, wire::ByteView records);
    void close(File& file);
    void remove(const File& file);

    std::string folder_;
    int folder_descriptor_;
    int lock_;
    std::map<std::string, File> files_;  // by key
    uint64_t last_number_ = 0;
    uint64_t bytes_ = 0;
    uint64_t write_errors_ = 0;
    uint64_t restored_ = 0;
    uint64_t lost_ = 0;
    bool is_failing_ = false;  // the latest write failed: said once
};

}  // namespace chatloop::actors
