#include "header.hpp"

#include <utility>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/wire/crc.hpp"

namespace chatloop::wire {
namespace {

// Offsets of docs/protocol.md, of the type byte of each element.
constexpr size_t kVersionAt = 1;
constexpr size_t kTypeAt = 3;
constexpr size_t kRouterAt = 5;
constexpr size_t kGenerationAt = 14;
constexpr size_t kNumberAt = 23;
constexpr size_t kHopAt = 32;
constexpr size_t kDestinationAt = 34;
constexpr size_t kBudgetAt = 43;
constexpr size_t kCrcAt = 48;
static_assert(kCrcAt + kFixedU32Bytes == kHeaderBytes);

constexpr uint8_t kDataArray = 0x9f;    // 15 elements
constexpr uint8_t kResultArray = 0x9c;  // 12 elements

constexpr uint64_t kTimingsKey = 1;
constexpr size_t kTimingBytes = 8;
constexpr size_t kExtEntriesMax = 16;

uint8_t array_byte(uint8_t type) {
    return type == kFrameData ? kDataArray : kResultArray;
}

// The integer of `size` bytes behind the type byte at `at`, or nothing when the encoding is
// another.
std::optional<uint64_t> load(ByteView bytes, size_t at, uint8_t type_byte, size_t size) {
    if (bytes[at] != type_byte) return std::nullopt;
    uint64_t value = 0;
    for (size_t i = 1; i <= size; ++i) value = value << 8 | bytes[at + i];
    return value;
}

std::optional<uint64_t> load_u8(ByteView bytes, size_t at) {
    return load(bytes, at, 0xcc, 1);
}

std::optional<uint64_t> load_u32(ByteView bytes, size_t at) {
    return load(bytes, at, 0xce, 4);
}

std::optional<uint64_t> load_u64(ByteView bytes, size_t at) {
    return load(bytes, at, 0xcf, 8);
}

Error malformed(std::string message) {
    return Error{ErrorCode::kMalformed, std::move(message)};
}

uint32_t load_little_endian(const char* at) {
    uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(at[i]);
    return value;
}

}  // namespace

void store_header(uint8_t* bytes, const FrameHeader& header) {
    bytes[0] = array_byte(header.type);
    store_u8(bytes + kVersionAt, kProtocolVersion);
    store_u8(bytes + kTypeAt, header.type);
    store_u64(bytes + kRouterAt, header.router);
    store_u64(bytes + kGenerationAt, header.generation);
    store_u64(bytes + kNumberAt, header.number);
    store_u8(bytes + kHopAt, header.hop);
    store_u64(bytes + kDestinationAt, header.destination);
    store_u32(bytes + kBudgetAt, header.budget_ms);
    store_u32(bytes + kCrcAt, crc32c({bytes, kCrcAt}));
}

void patch_header(uint8_t* bytes, const FrameHeader& header) {
    CL_ASSERT(bytes[0] == array_byte(header.type));  // the type decides what follows the header
    store_header(bytes, header);
}

Result<FrameHeader> decode_header(ByteView bytes) {
    if (bytes.size() < kHeaderBytes) return malformed("a frame that is shorter than its header");
    const auto crc = load_crc(bytes.subspan(kCrcAt, kFixedU32Bytes));
    if (!crc || *crc != crc32c(bytes.first(kCrcAt))) return malformed("the header CRC is off");

    const auto version = load_u8(bytes, kVersionAt);
    if (version != kProtocolVersion) return malformed("a frame of another protocol version");
    const auto type = load_u8(bytes, kTypeAt);
    const auto router = load_u64(bytes, kRouterAt);
    const auto generation = load_u64(bytes, kGenerationAt);
    const auto number = load_u64(bytes, kNumberAt);
    const auto hop = load_u8(bytes, kHopAt);
    const auto destination = load_u64(bytes, kDestinationAt);
    const auto budget_ms = load_u32(bytes, kBudgetAt);
    const bool encoded =
        type && router && generation && number && hop && destination && budget_ms;
    if (!encoded) return malformed("a header field is not in its fixed-width encoding");
    if (*type != kFrameData && *type != kFrameResult) return malformed("an unknown frame type");
    if (bytes[0] != array_byte(static_cast<uint8_t>(*type))) {
        return malformed("a frame whose array length is not its type's");
    }
    if (*router == 0 || *generation == 0 || *number == 0 || *destination == 0) {
        return malformed("a header field is 0 that never is");
    }
    const size_t hops = *type == kFrameData ? kHopsMax : kHopsMax + 1;  // the router is one more
    if (*hop >= hops) return malformed("a hop beyond the longest route");
    return FrameHeader{static_cast<uint8_t>(*type), *router,
                       *generation,                 *number,
                       static_cast<uint8_t>(*hop),  *destination,
                       static_cast<uint32_t>(*budget_ms)};
}

void write_timings(Writer& writer, std::span<const HopTiming> timings) {
    CL_ASSERT(timings.size() <= kHopsMax);
    if (timings.empty()) {
        writer.map(0);
        return;
    }
    writer.map(1).number(kTimingsKey).bin_header(timings.size() * kTimingBytes);
    for (const HopTiming& timing : timings)
        writer.little_endian(timing.queue_us).little_endian(timing.busy_us);
}

void read_timings(ByteView element, Problem& problem, std::vector<HopTiming>& timings) {
    timings.clear();
    Cursor cursor(element, problem);
    std::string_view bytes;
    bool found = false;
    for (size_t left = cursor.map("ext", kExtEntriesMax); left > 0 && !problem.found(); --left) {
        if (cursor.u32("ext key") != kTimingsKey) {
            cursor.skip("ext value");
            continue;
        }
        if (std::exchange(found, true)) problem.fail("ext timings", "come twice");
        bytes = cursor.bin("ext timings", kHopsMax * kTimingBytes);
    }
    if (bytes.size() % kTimingBytes != 0) problem.fail("ext timings", "are not 8 bytes a hop");
    if (problem.found()) return;
    for (size_t i = 0; i < bytes.size() / kTimingBytes; ++i) {
        const char* at = bytes.data() + i * kTimingBytes;
        timings.push_back({load_little_endian(at), load_little_endian(at + 4)});
    }
}

ByteView Tail::next() {
    const std::optional<size_t> end = broken_ ? std::nullopt : value_end(frame_, offset_);
    if (!end) {
        broken_ = true;
        return {};
    }
    const ByteView element = frame_.subspan(offset_, *end - offset_);
    offset_ = *end;
    return element;
}

std::optional<uint32_t> load_crc(ByteView element) {
    if (element.size() != kFixedU32Bytes) return std::nullopt;
    const auto value = load_u32(element, 0);
    if (!value) return std::nullopt;
    return static_cast<uint32_t>(*value);
}

FrameError malformed_frame(std::string message) {
    return FrameError{false, Error{ErrorCode::kMalformed, std::move(message)}};
}

}  // namespace chatloop::wire
