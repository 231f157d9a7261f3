// The file of a journal, as a disk may give it back. What is read of it begins the file, written
// again it is the same bytes, and an Api takes it up: it asks the router for the rest, or has all.
#include <memory>
#include <string>

#include "chatloop/core/assert.hpp"
#include "chatloop/wire/crc.hpp"
#include "http/api_harness.hpp"
#include "target.hpp"

namespace chatloop::fuzz {

namespace {

http::StreamHead head(http::Surface surface, uint32_t choices) {
    http::StreamHead head;
    head.surface = surface;
    head.include_usage = true;
    head.has_tools = surface == http::Surface::kChat;
    head.key = "abc";
    head.peer = "10.0.0.1";
    head.request_header = head.id = "cmpl-1";
    head.created = 1000;
    head.parameters.n = choices;
    head.parameters.logprobs = 1;
    head.parameters.prompt_logprobs = 1;
    return head;
}

wire::Accepted accepted() {
    wire::Accepted accepted;
    accepted.request_id = "cmpl-1";
    accepted.prompt_ids = {1, 2};
    accepted.seed = 3;
    accepted.fingerprint = "00112233445566aa";
    accepted.model = "m";
    return accepted;
}

Bytes file(http::Surface surface, uint32_t choices, bool asks_for_entries = true) {
    http::StreamHead begin = head(surface, choices);
    if (!asks_for_entries) begin.parameters.prompt_logprobs.reset();
    Bytes bytes = http::journal_begin(begin, accepted());
    const auto add = [&bytes](const wire::RouterBody& message) {
        const Bytes record = http::journal_message(message);
        bytes.insert(bytes.end(), record.begin(), record.end());
    };
    const wire::TokenEntry entry{2, -1.0f, {{2, -1.0f}}};
    add(wire::PromptPiece{"cmpl-1", 0, {std::nullopt, entry}});
    for (uint32_t choice = 0; choice < choices; ++choice) {
        wire::Piece piece;
        piece.request_id = "cmpl-1";
        piece.choice = choice;
        piece.token_ids = {40};
        piece.text = "<tool_call>\n{\"name\": \"f\", ";
        piece.logprobs = {entry};
        add(piece);
        if (choices > 1) add(wire::ChoiceDone{"cmpl-1", choice, "stop", {}, 1});
    }
    add(wire::Done{"cmpl-1", "stop", {}, 2, 0, choices, 0, 0, 0});
    return bytes;
}

// The records' CRCs made right, so that what is in them is looked at.
Bytes repaired(wire::ByteView bytes) {
    constexpr size_t kHead = 9;  // length, CRC, kind
    Bytes file(bytes.begin(), bytes.end());
    for (size_t at = 0; file.size() - at >= kHead;) {
        const size_t length = file[at] | size_t{file[at + 1]} << 8 | size_t{file[at + 2]} << 16;
        if (length > file.size() - at - kHead) break;
        file[at + 3] = 0;
        const uint32_t crc = wire::crc32c(wire::ByteView(file).subspan(at + 8, length + 1));
        for (size_t i = 0; i < 4; ++i) file[at + 4 + i] = static_cast<uint8_t>(crc >> (8 * i));
        at += kHead + length;
    }
    return file;
}

Bytes written(const http::JournaledStream& stream) {
    Bytes file = http::journal_begin(stream.head, stream.accepted);
    for (const wire::RouterBody& message : stream.messages) {
        const Bytes record = http::journal_message(message);
        file.insert(file.end(), record.begin(), record.end());
    }
    return file;
}

void check(wire::ByteView bytes) {
    const std::optional<http::JournaledStream> stream = http::read_journal(bytes);
    http::Harness harness;
    const auto restored = harness.api.restore(bytes);
    CL_ASSERT(restored.has_value() == stream.has_value());
    if (!stream) {
        CL_ASSERT(harness.api.running() == 0 && harness.sent.empty());
        return;
    }
    CL_ASSERT(restored->bytes == stream->bytes && stream->bytes <= bytes.size());
    CL_ASSERT(restored->has_ended == (harness.api.running() == 0));
    harness.api.on_tick(0);
    const Bytes once = written(*stream);
    const auto again = http::read_journal(once);
    CL_ASSERT(again && again->bytes == once.size() && written(*again) == once);
    CL_ASSERT(harness.sent.size() == harness.api.running());
    if (harness.sent.empty()) return;
    const auto& resume = std::get<wire::Resume>(harness.sent[0].second);
    CL_ASSERT(!std::holds_alternative<wire::ClientError>(
        wire::decode_client(wire::encode_client(resume))));
}

}  // namespace

std::vector<Bytes> seeds() {
    return {file(http::Surface::kChat, 2), file(http::Surface::kText, 1),
            file(http::Surface::kExecute, 1), file(http::Surface::kText, 1, false)};
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop::fuzz;
    check({data, size});
    check(repaired({data, size}));
    return 0;
}
