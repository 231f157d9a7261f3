// Whether a model file is, byte for byte, the one that the splitter wrote: its SHA-256 is the one
// in partition_metadata.json. Partition files are hashed in slices while they load, and only once:
// a stamp beside the file, `<file>.verified`, tells later starts that this very file was sound.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "chatloop/core/result.hpp"
#include "chatloop/model/file_map.hpp"
#include "chatloop/model/sha256.hpp"
#include "chatloop/model/spec.hpp"

namespace chatloop {

class FileVerifier {
public:
    // `file` stays mapped until the check is done; `sha256` as in the metadata.
    FileVerifier(const FileMap& file, std::string sha256);

    // Hashes about `bytes` more, or nothing when the stamp fits. True when the file is sound;
    // kBadFile: it is not.
    Result<bool> step(uint64_t bytes);
    bool done() const { return done_; }

    // For the log, once it is done: how the file was found sound.
    const std::string& outcome() const { return outcome_; }

private:
    std::string stamp_path() const { return name_ + ".verified"; }
    std::string stamp_text() const;
    bool has_stamp() const;
    void write_stamp();

    std::string name_;
    const uint8_t* data_;
    FileIdentity identity_;
    std::string sha256_;
    Sha256 hash_;
    uint64_t offset_ = 0;
    bool done_ = false;
    std::string outcome_;
};

// Checks size and SHA-256 of a small file at once, without a stamp.
Status verify_file(const std::filesystem::path& model_dir, const FileEntry& entry);

}  // namespace chatloop
