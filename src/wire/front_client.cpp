// The client front, from the client to the router.
#include "chatloop/core/limits.hpp"
#include "front.hpp"

namespace chatloop::wire {
namespace {

struct Encoder {
    Writer& writer;

    void operator()(const Submit& m) {
        begin_front(writer, FrontType::kSubmit, 2).str(m.request_id);
        write_parameters(writer, m.parameters);
    }
    void operator()(const Cancel& m) {
        begin_front(writer, FrontType::kCancel, 1).str(m.request_id);
    }
    void operator()(const Resume& m) {
        begin_front(writer, FrontType::kResume, 4).str(m.request_id).number(m.attempt);
        write_parameters(writer, m.parameters);
        write_progress(writer, m.progress);
    }
    void operator()(const Ping& m) {
        begin_front(writer, FrontType::kPing, m.wants_requests ? 2 : 1).number(m.nonce);
        if (m.wants_requests) writer.boolean(true);
    }
    void operator()(const TraceQuery& m) {
        begin_front(writer, FrontType::kTraceQuery, 1).str(m.request_id);
    }
    void operator()(const StatusQuery&) { begin_front(writer, FrontType::kStatusQuery, 0); }
};

// Elements behind the type; nothing for a type that clients do not send.
std::optional<size_t> body_elements(uint8_t type) {
    switch (FrontType{type}) {
        case FrontType::kSubmit: return 2;
        case FrontType::kCancel: return 1;
        case FrontType::kResume: return 4;
        case FrontType::kPing: return 1;
        case FrontType::kStatusQuery: return 0;
        case FrontType::kTraceQuery: return 1;
        default: return std::nullopt;
    }
}

std::string read_request_id(Fields& f, Problem& problem, ClientError& failure) {
    std::string id = f.next("request_id").str(kRequestIdBytesMax);
    if (!problem.found()) failure.request_id = id;
    // From here on it is a known request that is wrong, not an unknown message.
    problem.set_codes(ErrorCode::kInvalidRequest, ErrorCode::kNotUtf8);
    return id;
}

ClientBody read_body(FrontType type, Fields& f, Problem& problem, ClientError& failure) {
    switch (type) {
        case FrontType::kSubmit: {
            Submit m;
            m.request_id = read_request_id(f, problem, failure);
            m.parameters = read_parameters(f.next("parameters"), problem);
            return m;
        }
        case FrontType::kCancel: return Cancel{read_request_id(f, problem, failure)};
        case FrontType::kResume: {
            Resume m;
            m.request_id = read_request_id(f, problem, failure);
            m.attempt = f.next("attempt").u32();
            m.parameters = read_parameters(f.next("parameters"), problem);
            m.progress = read_progress(f.next("progress"), m.parameters.n);
            return m;
        }
        case FrontType::kPing: {
            Ping m;
            m.nonce = f.next("nonce").u64();
            m.wants_requests = f.count() > kFrontPrefix + 1 && f.next("wants requests").boolean();
            return m;
        }
        case FrontType::kTraceQuery:
            return TraceQuery{f.next("request_id").str(kRequestIdBytesMax)};
        default: return StatusQuery{};
    }
}

}  // namespace

Writer& begin_front(Writer& writer, FrontType type, size_t body_elements) {
    writer.array(kFrontPrefix + body_elements).number(kProtocolVersion);
    return writer.number(static_cast<uint8_t>(type));
}

Bytes encode_client(const ClientBody& message) {
    Bytes bytes;
    Writer writer(bytes);
    std::visit(Encoder{writer}, message);
    return bytes;
}

std::variant<ClientBody, ClientError> decode_client(ByteView bytes) {
    ClientError failure;
    const std::optional<Tree> tree =
        bytes.size() <= kFrontBytesMax ? Tree::parse(bytes) : std::nullopt;
    if (!tree) {
        failure.error = {ErrorCode::kMalformed, "not a msgpack value of allowed size"};
        return failure;
    }
    Problem problem;
    Fields fields = Value(&tree->root(), "message", problem).list(kFrontPrefix, kFrontElementsMax);
    fields.next("version").u8(kProtocolVersion, kProtocolVersion);
    const uint8_t type = fields.next("type").u8();
    const std::optional<size_t> expected = body_elements(type);
    if (!expected) problem.fail("type", "is unknown");
    const bool is_long_ping = FrontType{type} == FrontType::kPing &&
                              fields.count() == kFrontPrefix + 2;
    if (expected && fields.count() != kFrontPrefix + *expected && !is_long_ping) {
        problem.fail("message", "has another length than its type's");
    }
    ClientBody body;
    if (!problem.found()) body = read_body(FrontType{type}, fields, problem, failure);
    if (!problem.found()) return body;
    failure.error = problem.error();
    return failure;
}

}  // namespace chatloop::wire
