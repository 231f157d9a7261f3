// Every bound of the system, in one place. A queue, frame, message, header or request that is not
// bounded here is a bug.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chatloop {

// Frames on the data path.
inline constexpr uint32_t kFrameItemsMax = 256;         // sequences in one micro-batch
inline constexpr uint32_t kFrameRowsMax = 512;          // residual rows in one frame
inline constexpr size_t kFrameBytesMax = 16u << 20;     // ZMQ_MAXMSGSIZE of data sockets
inline constexpr size_t kFrameOverheadBytes = 1u << 20;  // header, items, samples of one frame
inline constexpr size_t kHopsMax = 64;                  // stages + sampler on one route
inline constexpr uint32_t kWidthMax = 65536;            // floats per residual row
inline constexpr size_t kSampleBytesMax = 1u << 20;     // one opaque sample element
inline constexpr uint32_t kItemBlocksMax = 4096;        // new KV blocks named by one item
inline constexpr uint32_t kTopLogprobsMax = 32;
inline constexpr uint32_t kLogitBiasMax = 1024;         // ids with a bias in one request
inline constexpr uint32_t kHistoryIdsMax = 65536;       // different ids that penalties look at
inline constexpr size_t kAllowedBytesMax = 64u << 10;   // a constraint's tokens, a bit each
// Samples and block ids of a frame together; what else its items have is under 20 KiB. Those of one
// item alone fit: 7 bytes an id, 10 a bias, 5 a mask, 5 a block, and the bits.
inline constexpr size_t kFrameItemBytesMax = 640u << 10;
inline constexpr size_t kBlockIdBytesMax = 5;           // msgpack

// A worker's share (docs/protocol.md, credit).
inline constexpr uint32_t kShareFramesMax = 32;         // frames in a worker's hands
inline constexpr size_t kShareBytesMax = 64u << 20;
inline constexpr uint32_t kSlotsMax = 4096;
inline constexpr size_t kPooledMessagesMax = 16;        // buffers that a worker writes frames into
inline constexpr size_t kPooledMessageBytesMax = 256u << 10;  // of one, while it waits
inline constexpr size_t kSpareFramesMax = 8;            // decoded frames whose memory is kept
inline constexpr uint32_t kBlocksMax = 1u << 22;        // KV blocks of a share
inline constexpr uint32_t kSequenceBlocksMax = 4096;    // x 64 positions: the longest context
inline constexpr uint32_t kGenerationsHeldMax = 64;     // installed generations a worker remembers

// Control.
inline constexpr size_t kControlBytesMax = 1u << 20;
inline constexpr uint32_t kWorkersMax = 1024;           // and routes: each has a worker of its own
inline constexpr uint32_t kNameBytesMax = 256;          // names, endpoints, reasons
inline constexpr uint32_t kRefusalsKept = 8;            // of workers, until a route is up

// Peers that send bytes that are no message (core/quarantine.hpp).
inline constexpr uint32_t kMalformedMax = 128;          // of one peer within the window
inline constexpr int64_t kMalformedWindowUs = 10'000'000;
inline constexpr int64_t kQuarantineUs = 30'000'000;    // that nothing of it is read then
inline constexpr size_t kOffendersMax = 1024;           // that are remembered

// Clients.
inline constexpr size_t kFrontBytesMax = 4u << 20;
inline constexpr size_t kPromptBytesMax = 1u << 20;
inline constexpr uint64_t kPromptBytesPerToken = 16;    // of the context: far above any text's mean
constexpr size_t prompt_bytes_max(uint32_t context_length) {
    const uint64_t bytes = kPromptBytesPerToken * context_length;
    return bytes < kPromptBytesMax ? static_cast<size_t>(bytes) : kPromptBytesMax;
}
inline constexpr uint32_t kMessagesMax = 1024;          // chat messages in one request
inline constexpr uint32_t kPromptIdsMax = 262144;
inline constexpr uint32_t kStopStringsMax = 16;
inline constexpr size_t kStopStringBytesMax = 256;
inline constexpr uint32_t kStopTokenIdsMax = 1024;      // of one request
inline constexpr uint32_t kChoicesMax = 16;             // answers to one request
inline constexpr int32_t kPriorityMax = 100;            // and -100 is the lowest
inline constexpr float kTemperatureMax = 100.0f;
inline constexpr float kRepetitionPenaltyMax = 10.0f;
inline constexpr float kPenaltyMax = 2.0f;              // presence and frequency, and -2
inline constexpr float kBiasMax = 100.0f;               // and -100
inline constexpr size_t kConstraintBytesMax = 64u << 10;   // of one request's constraint
inline constexpr size_t kConstraintsBytesMax = 4u << 20;  // of all requests together
inline constexpr uint32_t kConstraintTextsMax = 1024;   // that a choice is among
inline constexpr uint32_t kRequestIdBytesMax = 128;
inline constexpr uint32_t kClientsMax = 4096;           // clients with a running request
inline constexpr uint32_t kPieceTokensMax = 1024;       // tokens in one message to a client
inline constexpr uint32_t kCountersMax = 64;            // names in one map of STATUS
inline constexpr uint32_t kBucketsMax = 64;             // of a histogram
inline constexpr uint32_t kStatusRequestsMax = 64;      // that STATUS lists
inline constexpr uint32_t kPongRequestsMax = 4096;      // that PONG lists; of more, none
inline constexpr uint32_t kStatusEventsMax = 32;
inline constexpr size_t kNoRouteBytesMax = 1024;        // why there is no route

// Traces (router/trace.hpp).
inline constexpr uint32_t kTracePhasesMax = 64;         // of one choice
inline constexpr uint32_t kTraceSpansMax = 1024;        // of one request
inline constexpr uint32_t kTracesKept = 256;            // of requests that have ended
inline constexpr uint32_t kSpanAttributesMax = 16;

// Observability (docs/observability.md).
inline constexpr size_t kLogLineBytesMax = 4096;        // PIPE_BUF: a pipe takes it whole or not

// What waits for clients that do not read (bus/egress.hpp). An answer of 8192 tokens with 32
// log-probabilities each takes about 6 MiB.
inline constexpr size_t kEgressPeerBytesMax = 16u << 20;
inline constexpr size_t kEgressBytesMax = 256u << 20;   // of all clients
inline constexpr size_t kEgressMessageBytes = 128;      // of a waiting message, beside its own
inline constexpr int64_t kEgressStallUs = 900'000'000;  // without any progress

// HTTP (http/server.hpp).
inline constexpr unsigned kHttpConnectionsMax = 4096;
inline constexpr unsigned kHttpPeerConnectionsMax = 2048;  // of one address; a proxy is one
inline constexpr size_t kHttpHeaderBytesMax = 32u << 10;   // of one request
inline constexpr uint16_t kHttpPortTriesMax = 64;          // of an address that ends in PORT+
inline constexpr uint64_t kHttpBodyBytesMax = 8u << 20;
inline constexpr uint64_t kHttpDiscardBytesMax = 32u << 20;  // of a body that was refused
inline constexpr size_t kHttpBodiesBytesMax = 64u << 20;   // of all requests that are coming in
inline constexpr size_t kHttpSmallBodyBytes = 64u << 10;   // taken even then
inline constexpr int kHttpRequestsPerTurn = 16;
inline constexpr size_t kHttpTurnBytesMax = 256u << 10;    // bodies that one turn looks at
inline constexpr int64_t kHttpIdleUs = 60'000'000;  // until the headers of a request are here
inline constexpr int64_t kHttpBodyUs = 60'000'000;         // then until its body is
inline constexpr int64_t kHttpStallUs = 60'000'000;        // without a byte read by the client
inline constexpr size_t kHttpStreamBytesMax = 16u << 20;   // that wait for one client
inline constexpr size_t kHttpStreamsBytesMax = 256u << 20; // for all
inline constexpr size_t kHttpPromptsMax = 256;             // of one /v1/completions
inline constexpr size_t kHttpAnswerBytesMax = 32u << 20;   // that is not streamed, while it grows
inline constexpr size_t kHttpAnswersBytesMax = 256u << 20; // all of these
inline constexpr size_t kHttpLogprobsPerEvent = 256;       // of a prompt, in a stream
inline constexpr size_t kHttpJobsMax = 4096;               // requests that run
inline constexpr size_t kHttpKeysMax = 1024;
inline constexpr size_t kJsonDepthMax = 64;
inline constexpr size_t kJsonValuesMax = 400'000;
inline constexpr size_t kJsonMembersMax = 1024;            // of one object
inline constexpr size_t kJsonAllMembersMax = 32'768;
inline constexpr size_t kHttpSendBytes = 16u << 10;        // of a stream, at once
inline constexpr size_t kHttpStreamsKeptMax = 4096;        // resumable ones, also those that ended
inline constexpr size_t kHttpKeptBytesMax = 4u << 20;      // events that one of them keeps
inline constexpr size_t kHttpKeptAllBytesMax = 64u << 20;  // and all of them
inline constexpr uint64_t kJournalStreamBytesMax = 16u << 20;  // of one of them, on disk
inline constexpr uint64_t kJournalBytesMax = 64u << 20;    // and of all: a start reads them
inline constexpr uint32_t kTakenUpMax = 5;                 // times that one is taken up in vain
inline constexpr size_t kResumesPerTick = 16;
inline constexpr int64_t kHttpResumeUs = 60'000'000;       // one is kept without its client

// Model files.
inline constexpr size_t kMappedFilesMax = 256;          // in one process
inline constexpr size_t kLoadBytes = 8u << 20;          // read or hashed between two polls

// The loop (docs/flow.md).
inline constexpr int kDrainControlMax = 64;             // messages of one socket per turn
inline constexpr int kDrainDataMax = 32;
inline constexpr size_t kDrainBytesMax = 8u << 20;      // of one socket per turn
inline constexpr int64_t kUnitTargetUs = 25'000;        // one unit of work between two polls

// High-water marks of one connection, in messages. Credits keep data and control far below theirs.
// Receiving ones are low because a peer may send messages of the largest size faster than they are
// read; a client that does not read fills its sending one, and the rest waits in the egress.
inline constexpr int kDataSendMax = 4096;
inline constexpr int kDataReceiveMax = 128;
inline constexpr int kControlSendMax = 1024;
inline constexpr int kControlReceiveMax = 64;
inline constexpr int kFrontSendMax = 256;
inline constexpr int kFrontReceiveMax = 16;
inline constexpr int kSocketsMax = 8192;                // of a process; three per data link
inline constexpr uint64_t kDescriptorsWanted = 65536;

static_assert(4 * kShareFramesMax <= kDataReceiveMax, "credits stay below a quarter of the HWM");

// The process (docs/configuration.md).
inline constexpr size_t kConfigBytesMax = 64u << 10;    // a configuration file
inline constexpr uint32_t kRoutersMax = 16;             // that one worker serves
inline constexpr size_t kPathBytesMax = 4096;
inline constexpr int kCpusMax = 4096;
inline constexpr int kNumaNodesMax = 1024;

}  // namespace chatloop
