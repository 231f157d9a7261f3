// A mapped safetensors file. The header is untrusted: whatever a file contains, opening it is a
// value or one clear line.
//
// Stricter than the public format (docs/model_format.md): the data starts at a multiple of 4096 and
// is covered by the tensors without holes or overlaps, each at a multiple of 64 except `pad.*`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/model/file_map.hpp"

namespace chatloop {

enum class Dtype : uint8_t { kF32, kF16, kBf16, kI8, kU8 };

std::string_view dtype_name(Dtype dtype);
size_t dtype_bytes(Dtype dtype);
bool is_pad(std::string_view tensor);  // a filler between tensors, without meaning

struct TensorInfo {
    Dtype dtype = Dtype::kU8;
    std::vector<uint64_t> shape;  // 1 to 8 dimensions, none of them 0
    uint64_t offset = 0;          // bytes from the start of the file
    uint64_t bytes = 0;           // product of the shape x dtype
};

struct SafetensorsHeader {
    std::map<std::string, TensorInfo, std::less<>> tensors;
    std::map<std::string, std::string, std::less<>> metadata;  // __metadata__
};

// `prefix` is the file's first bytes, all of it or at least the whole header. `source` names the
// file in errors (kBadFile).
Result<SafetensorsHeader> parse_safetensors_header(std::span<const uint8_t> prefix,
                                                   uint64_t file_bytes, const std::string& source);

class SafetensorsFile {
public:
    static Result<SafetensorsFile> open(const std::filesystem::path& path);

    const std::string& name() const { return map_.name(); }  // the path, for errors
    uint64_t bytes() const { return map_.bytes(); }
    const FileMap& map() const { return map_; }
    void unmap() { map_.unmap(); }  // what data() gave is gone; the header stays
    const SafetensorsHeader& header() const { return header_; }

    // nullptr when there is none of that name.
    const TensorInfo* find(std::string_view tensor) const;
    const uint8_t* data(const TensorInfo& tensor) const { return map_.data() + tensor.offset; }

private:
    SafetensorsFile() = default;

    FileMap map_;
    SafetensorsHeader header_;
};

}  // namespace chatloop
