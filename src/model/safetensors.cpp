#include "chatloop/model/safetensors.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "json_fields.hpp"

namespace chatloop {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;               // little-endian header length
constexpr uint64_t kHeaderBytesMax = 16u << 20;
constexpr uint64_t kDataAlignment = 4096;          // of the data section: a page
constexpr uint64_t kTensorAlignment = 64;          // of a tensor: a cache line
constexpr size_t kDimensionsMax = 8;
constexpr size_t kTensorNameBytesMax = 256;
constexpr int kDepthMax = 3;                       // header, tensor, shape

struct DtypeRow {
    Dtype dtype;
    std::string_view name;
    size_t bytes;
};
constexpr DtypeRow kDtypes[] = {
    {Dtype::kF32, "F32", 4}, {Dtype::kF16, "F16", 2}, {Dtype::kBf16, "BF16", 2},
    {Dtype::kI8, "I8", 1},   {Dtype::kU8, "U8", 1},
};

Error bad_file(const std::string& source, const std::string& what) {
    return Error{ErrorCode::kBadFile, source + ": " + what};
}

std::optional<Dtype> parse_dtype(const std::string& name) {
    for (const DtypeRow& row : kDtypes) {
        if (row.name == name) return row.dtype;
    }
    return std::nullopt;
}

// The tensor's bytes by its shape; nullopt on a bad dimension or overflow.
std::optional<uint64_t> shape_bytes(const json& shape, Dtype dtype, std::vector<uint64_t>& out) {
    uint64_t bytes = dtype_bytes(dtype);
    for (const json& dimension : shape) {
        if (!dimension.is_number_unsigned() || dimension.get<uint64_t>() == 0) return std::nullopt;
        out.push_back(dimension.get<uint64_t>());
        if (__builtin_mul_overflow(bytes, out.back(), &bytes)) return std::nullopt;
    }
    return bytes;
}

Result<TensorInfo> parse_tensor(const std::string& name, const json& entry, uint64_t data_first,
                                uint64_t file_bytes, const std::string& source) {
    const std::string where = source + ": tensor " + in_quotes(name);
    if (name.empty() || name.size() > kTensorNameBytesMax) {
        return bad_file(where, "bad name length");
    }
    FieldReader in(entry, where);
    const std::optional<Dtype> dtype = parse_dtype(in.text("dtype"));
    const json* shape = in.array("shape", 1, kDimensionsMax);
    const json* offsets = in.array("data_offsets", 2, 2);
    if (Status status = in.finish(); !status) return status.error();
    if (!dtype) return bad_file(where, "\"dtype\" is not one of F32, F16, BF16, I8, U8");

    TensorInfo tensor;
    tensor.dtype = *dtype;
    const std::optional<uint64_t> bytes = shape_bytes(*shape, *dtype, tensor.shape);
    if (!bytes) return bad_file(where, "\"shape\" has a bad dimension or is too large");
    const json& begin = (*offsets)[0];
    const json& end = (*offsets)[1];
    if (!begin.is_number_unsigned() || !end.is_number_unsigned() ||
        begin.get<uint64_t>() > end.get<uint64_t>()) {
        return bad_file(where, "\"data_offsets\" are not an ascending pair of integers");
    }
    tensor.offset = begin.get<uint64_t>();
    tensor.bytes = end.get<uint64_t>() - tensor.offset;
    if (end.get<uint64_t>() > file_bytes - data_first) {
        return bad_file(where, "ends beyond the file: truncated copy?");
    }
    if (tensor.bytes != *bytes) {
        return bad_file(where, "has " + std::to_string(tensor.bytes) + " bytes, its shape needs " +
                                   std::to_string(*bytes));
    }
    if (!is_pad(name) && tensor.offset % kTensorAlignment != 0) {
        return bad_file(where, "is not at a multiple of 64");
    }
    tensor.offset += data_first;
    return tensor;
}

Status parse_metadata(const json& entry, SafetensorsHeader& header, const std::string& source) {
    if (!entry.is_object()) return bad_file(source, "__metadata__ is not an object");
    for (const auto& item : entry.items()) {
        if (!item.value().is_string()) {
            return bad_file(source, "__metadata__ " + in_quotes(item.key()) + " is not a string");
        }
        header.metadata.emplace(item.key(), item.value().get_ref<const std::string&>());
    }
    return Ok{};
}

// The tensors lie one after the other from the first data byte to the end of the file.
Status check_cover(const SafetensorsHeader& header, uint64_t data_first, uint64_t file_bytes,
                   const std::string& source) {
    std::vector<std::pair<uint64_t, const std::string*>> order;
    for (const auto& [name, tensor] : header.tensors) order.emplace_back(tensor.offset, &name);
    std::sort(order.begin(), order.end());
    uint64_t next = data_first;
    for (const auto& [offset, name] : order) {
        const std::string tensor = "tensor " + in_quotes(*name);
        if (offset < next) return bad_file(source, tensor + " overlaps another");
        if (offset > next) return bad_file(source, "hole before " + tensor);
        next += header.tensors.find(*name)->second.bytes;
    }
    if (next != file_bytes) {
        return bad_file(source, std::to_string(file_bytes - next) + " bytes after the last tensor");
    }
    return Ok{};
}

uint64_t little_endian_u64(const uint8_t* bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; --i) value = value << 8 | bytes[i];
    return value;
}

}  // namespace

bool is_pad(std::string_view tensor) { return tensor.starts_with("pad."); }

std::string_view dtype_name(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }
size_t dtype_bytes(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bytes; }

Result<SafetensorsHeader> parse_safetensors_header(std::span<const uint8_t> prefix,
                                                   uint64_t file_bytes,
                                                   const std::string& source) {
    CL_ASSERT(prefix.size() <= file_bytes);
    if (prefix.size() < kLengthBytes) return bad_file(source, "too short for a safetensors file");
    const uint64_t length = little_endian_u64(prefix.data());
    if (length > prefix.size() - kLengthBytes) {
        return bad_file(source, "the header is longer than the file: truncated or foreign");
    }
    if (length > kHeaderBytesMax) return bad_file(source, "the header is larger than 16 MiB");
    const uint64_t data_first = kLengthBytes + length;
    if (data_first % kDataAlignment != 0) {
        return bad_file(source, "the data does not start at a multiple of 4096: not a partition "
                                "file, write it with split_model.py");
    }
    const char* header_text = reinterpret_cast<const char*>(prefix.data() + kLengthBytes);
    const std::string_view text(header_text, length);
    Result<json> root = parse_json(text, source + ": header", kDepthMax);
    if (!root) return root.error();
    if (!root->is_object()) return bad_file(source, "the header is not a JSON object");

    SafetensorsHeader header;
    for (const auto& item : root->items()) {
        if (item.key() == "__metadata__") {
            Status status = parse_metadata(item.value(), header, source);
            if (!status) return status.error();
            continue;
        }
        Result<TensorInfo> tensor =
            parse_tensor(item.key(), item.value(), data_first, file_bytes, source);
        if (!tensor) return tensor.error();
        header.tensors.emplace(item.key(), std::move(*tensor));
    }
    if (Status status = check_cover(header, data_first, file_bytes, source); !status) {
        return status.error();
    }
    return header;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
    Result<FileMap> map = FileMap::open(path);
    if (!map) return map.error();
    SafetensorsFile file;
    file.map_ = std::move(*map);
    Result<SafetensorsHeader> header =
        parse_safetensors_header({file.map_.data(), file.bytes()}, file.bytes(), file.name());
    if (!header) return header.error();
    file.header_ = std::move(*header);
    return file;
}

const TensorInfo* SafetensorsFile::find(std::string_view tensor) const {
    const auto found = header_.tensors.find(tensor);
    return found == header_.tensors.end() ? nullptr : &found->second;
}

}  // namespace chatloop
