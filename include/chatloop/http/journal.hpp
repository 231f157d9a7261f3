// The journal of resumable streams: what a router that was restarted needs to carry on with those
// of the process before it (docs/http.md, "Resumable streams"). A file for each stream, only
// appended to. Pure: bytes in, bytes out; actors/journal_files.hpp has the files.
//
// A record is a u32 of its payload's length, a u32 CRC-32C of kind and payload, both
// little-endian, a u8 kind, the payload:
//
//     kHead     JSON: what no message says. The first record.
//     kSubmit   SUBMIT without prompt and tools, as clients encode it. The second.
//     kMessage  what the router said of the request, as it encodes it: ACCEPTED, then the others
//     kTakenUp  nothing: a process begins to carry on with the stream
//
// Any prefix of the records will do: what follows is computed again, bit for bit the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/result.hpp"
#include "chatloop/http/ask.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::http {

// Where the bytes go. Nothing here blocks for longer than a write to the page cache.
class Journal {
public:
    virtual ~Journal() = default;

    // An error: the stream is not kept, and the message says why.
    virtual Status begin(const std::string& key, wire::ByteView records) = 0;
    // False: from here on nothing of the stream is kept; what was stays.
    virtual bool append(const std::string& key, wire::ByteView records) = 0;
    // Nothing more will be appended, the file stays.
    virtual void close(const std::string& key) = 0;
    virtual void drop(const std::string& key) = 0;
};

struct StreamHead {
    Surface surface = Surface::kChat;
    bool include_usage = false;
    bool has_tools = false;
    std::string key;             // in the stream's address
    std::string peer;            // address of the client that asked
    std::string request_header;  // x-request-id
    std::string id;              // of answer and request
    int64_t created = 0;         // s since 1970
    wire::Parameters parameters;  // without prompt and tools
};

struct JournaledStream {
    StreamHead head;
    wire::Accepted accepted;
    std::vector<wire::RouterBody> messages;  // behind ACCEPTED, in order, of this request
    uint32_t taken_up = 0;                   // times, since the last of them
    size_t bytes = 0;                        // that were read: what follows is damaged or cut off
};

// The first bytes of a journal.
wire::Bytes journal_begin(const StreamHead& head, const wire::Accepted& accepted);
wire::Bytes journal_message(const wire::RouterBody& message);
wire::Bytes journal_taken_up();

// Reads as far as records are whole, undamaged and follow each other; nothing if not even the
// request and its ACCEPTED do.
std::optional<JournaledStream> read_journal(wire::ByteView bytes);

}  // namespace chatloop::http
