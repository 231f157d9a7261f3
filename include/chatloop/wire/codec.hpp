// Bytes to messages and back (docs/protocol.md). Decoders accept exactly what the page says; all
// else is ErrorCode::kMalformed (or kInvalidRequest / kNotUtf8 for a client's parameters), never a
// crash, and nothing is allocated that the input's own size does not pay for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/wire/messages.hpp"

namespace chatloop::wire {

using Bytes = std::vector<uint8_t>;
using ByteView = std::span<const uint8_t>;

Bytes encode_control(const Control& message);
Result<Control> decode_control(ByteView bytes);

Bytes encode_client(const ClientBody& message);
// A failure names the request it belongs to when that much could be read.
struct ClientError {
    std::optional<std::string> request_id;
    Error error;
};
std::variant<ClientBody, ClientError> decode_client(ByteView bytes);

Bytes encode_router(const RouterBody& message);

// What an exporter (python -m chatloop.telemetry) is told of where spans come from.
struct TraceSource {
    std::string service;
    std::string instance;
    std::string endpoint;  // of the collector that they are for
};
Bytes encode_export(const TraceSource& source, int64_t arrived_unix_us, const Trace& trace);

Result<RouterBody> decode_router(ByteView bytes);

// ---- data frames ----

inline constexpr size_t kHeaderBytes = 53;  // up to and including the header CRC

// Trusts nothing before the CRC: kMalformed when it, the version or an encoding is off.
Result<FrameHeader> decode_header(ByteView bytes);
// Overwrites the header fields of an encoded frame and its CRC.
void patch_header(uint8_t* bytes, const FrameHeader& header);

// The frame without its payload's contents: `payload_at` receives the offset at which rows x width
// x 4 bytes are to be written before seal_frame, which sets the body CRC. The second form takes the
// memory of what `frame` held.
Bytes encode_frame(const FrameHeader& header, std::span<const HopTiming> timings,
                   std::span<const Item> items, DType dtype, uint32_t rows, uint32_t width,
                   size_t* payload_at);
void encode_frame(const FrameHeader& header, std::span<const HopTiming> timings,
                  std::span<const Item> items, DType dtype, uint32_t rows, uint32_t width,
                  Bytes& frame, size_t* payload_at);
void seal_frame(Bytes& frame);

// How a frame failed decides the answer (rule 3): a body CRC that is off is reported apart.
struct FrameError {
    bool body_crc = false;
    Error error;
};
// `header` has been decoded before. Checks every size, count and order against the page and
// limits.hpp. The second form takes the memory of the frame that was in `frame`, which after an
// error has no meaning.
std::variant<DataFrame, FrameError> decode_frame(const FrameHeader& header, ByteView bytes);
std::optional<FrameError> decode_frame(const FrameHeader& header, ByteView bytes,
                                       DataFrame& frame);

std::string encode_sample(const Sample& sample);
Result<Sample> decode_sample(std::string_view bytes, size_t output_count);
// Takes the memory of what was in `sample`.
Status decode_sample(std::string_view bytes, size_t output_count, Sample& sample);

Bytes encode_result(const ResultFrame& result);
void encode_result(const ResultFrame& result, Bytes& bytes);
std::variant<ResultFrame, FrameError> decode_result(const FrameHeader& header, ByteView bytes);

}  // namespace chatloop::wire
