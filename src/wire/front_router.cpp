// The client front, from the router to the client.
#include <algorithm>
#include <array>

#include "chatloop/core/limits.hpp"
#include "front.hpp"

namespace chatloop::wire {
namespace {

constexpr std::array<std::string_view, 3> kFinishReasons = {"stop", "length", "cancelled"};
constexpr size_t kInfoEntriesMax = 16;

void write_entry(Writer& writer, const TokenEntry& entry) {
    writer.array(3).number(entry.token).f32(entry.logprob).array(entry.top.size());
    for (const TopLogprob& top : entry.top) writer.array(2).number(top.token).f32(top.logprob);
}

void write_end(Writer& writer, const std::string& finish_reason, const Stop& stop) {
    writer.str("finish_reason").str(finish_reason).str("stop");
    if (const auto* text = std::get_if<std::string>(&stop)) writer.str(*text);
    else if (const auto* id = std::get_if<uint32_t>(&stop)) writer.number(*id);
    else writer.nil();
}

struct Encoder {
    Writer& writer;

    void operator()(const Accepted& m) {
        begin_front(writer, FrontType::kAccepted, 2).str(m.request_id);
        writer.map(4 + m.prompt_text.has_value()).str("prompt_ids").numbers(m.prompt_ids);
        writer.str("seed").number(m.seed).str("fingerprint").str(m.fingerprint);
        writer.str("model").str(m.model);
        if (m.prompt_text) writer.str("prompt_text").str(*m.prompt_text);
    }
    void operator()(const Piece& m) {
        begin_front(writer, FrontType::kPiece, 7).str(m.request_id).number(m.index);
        writer.numbers(m.token_ids).str(m.text).number(m.text_offset);
        if (m.logprobs) {
            writer.array(m.logprobs->size());
            for (const TokenEntry& entry : *m.logprobs) write_entry(writer, entry);
        } else {
            writer.nil();
        }
        writer.number(m.choice);
    }
    void operator()(const PromptPiece& m) {
        begin_front(writer, FrontType::kPromptPiece, 3).str(m.request_id).number(m.index);
        writer.array(m.entries.size());
        for (const auto& entry : m.entries) {
            if (entry) write_entry(writer, *entry);
            else writer.nil();
        }
    }
    void operator()(const ChoiceDone& m) {
        begin_front(writer, FrontType::kChoiceDone, 3).str(m.request_id).number(m.choice);
        writer.map(3);
        write_end(writer, m.finish_reason, m.stop);
        writer.str("completion_tokens").number(m.completion_tokens);
    }
    void operator()(const Done& m) {
        begin_front(writer, FrontType::kDone, 2).str(m.request_id);
        writer.map(8);
        write_end(writer, m.finish_reason, m.stop);
        writer.str("prompt_tokens").number(m.prompt_tokens);
        writer.str("cached_tokens").number(m.cached_tokens);
        writer.str("completion_tokens").number(m.completion_tokens);
        writer.str("queue_ms").f64(m.queue_ms).str("prefill_ms").f64(m.prefill_ms);
        writer.str("decode_ms").f64(m.decode_ms);
    }
    void operator()(const Failure& m) {
        begin_front(writer, FrontType::kFailure, 6);
        m.request_id ? writer.str(*m.request_id) : writer.nil();
        writer.str(m.code).sentence(m.message).boolean(m.retryable).number(m.committed);
        m.retry_after_ms ? writer.number(*m.retry_after_ms) : writer.nil();
    }
    void operator()(const Pong& m) {
        begin_front(writer, FrontType::kPong, m.requests ? 3 : 2).number(m.nonce).number(m.router);
        if (!m.requests) return;
        writer.array(m.requests->size());
        for (const RunningRequest& one : *m.requests)
            writer.array(3).str(one.request_id).number(one.attempt).number(one.tokens);
    }
    void operator()(const TraceReply& m) {
        begin_front(writer, FrontType::kTraceReply, 2).str(m.request_id);
        if (m.trace) write_trace(writer, *m.trace);
        else writer.nil();
    }
    void operator()(const StatusReply& m) {
        begin_front(writer, FrontType::kStatusReply, 1);
        write_status(writer, m);
    }
};

TokenEntry read_entry(Value value) {
    Fields f = value.fields(3);
    TokenEntry entry;
    entry.token = f.next("entry token").u32();
    entry.logprob = f.next("entry logprob").f32();
    Fields tops = f.next("entry top").list(0, kTopLogprobsMax);
    for (size_t i = 0; i < tops.count(); ++i) {
        Fields pair = tops.next("entry top").fields(2);
        const uint32_t token = pair.next("top token").u32();
        entry.top.push_back({token, pair.next("top logprob").f32()});
    }
    return entry;
}

std::string read_request_id(Fields& f) {
    return f.next("request_id").str(kRequestIdBytesMax);
}

Accepted read_accepted(Fields& f) {
    Accepted m;
    m.request_id = read_request_id(f);
    Entries info = f.next("info").entries(kInfoEntriesMax);
    m.prompt_ids = info.take("prompt_ids").numbers(kPromptIdsMax);
    m.seed = info.take("seed").u64();
    m.fingerprint = read_fingerprint(info.take("fingerprint"));
    m.model = info.take("model").str(kNameBytesMax);
    if (auto text = info.find("prompt_text")) m.prompt_text = text->str(kFrontBytesMax);
    info.finish();
    return m;
}

Piece read_piece(Fields& f) {
    Piece m;
    m.request_id = read_request_id(f);
    m.index = f.next("index").u32();
    m.token_ids = f.next("token_ids").numbers(kPieceTokensMax);
    m.text = f.next("text").str(kFrontBytesMax);
    m.text_offset = f.next("text_offset").u64();
    const Value logprobs = f.next("logprobs");
    if (!logprobs.is_nil()) {
        Fields entries = logprobs.fields(m.token_ids.size());
        m.logprobs.emplace();
        for (size_t i = 0; i < entries.count(); ++i)
            m.logprobs->push_back(read_entry(entries.next()));
    }
    m.choice = f.next("choice").u32(0, kChoicesMax - 1);
    return m;
}

PromptPiece read_prompt_piece(Fields& f) {
    PromptPiece m;
    m.request_id = read_request_id(f);
    m.index = f.next("index").u32();
    Fields entries = f.next("entries").list(0, kPieceTokensMax);
    for (size_t i = 0; i < entries.count(); ++i) {
        const Value entry = entries.next();
        const bool first_position = m.index == 0 && i == 0;
        if (entry.is_nil() != first_position) entry.fail("are nil for position 0 alone");
        m.entries.push_back(first_position ? std::nullopt : std::optional(read_entry(entry)));
    }
    return m;
}

void read_end(Entries& info, std::string& finish_reason, Stop& stop) {
    const Value reason = info.take("finish_reason");
    finish_reason = reason.str(kNameBytesMax);
    if (std::find(kFinishReasons.begin(), kFinishReasons.end(), finish_reason) ==
        kFinishReasons.end()) {
        reason.fail("is unknown");
    }
    const Value value = info.take("stop");
    if (value.is_str()) stop = value.str(kStopStringBytesMax);
    else if (!value.is_nil()) stop = value.u32();
}

ChoiceDone read_choice_done(Fields& f) {
    ChoiceDone m;
    m.request_id = read_request_id(f);
    m.choice = f.next("choice").u32(0, kChoicesMax - 1);
    Entries info = f.next("info").entries(kInfoEntriesMax);
    read_end(info, m.finish_reason, m.stop);
    m.completion_tokens = info.take("completion_tokens").u32();
    info.finish();
    return m;
}

Done read_done(Fields& f) {
    Done m;
    m.request_id = read_request_id(f);
    Entries info = f.next("info").entries(kInfoEntriesMax);
    read_end(info, m.finish_reason, m.stop);
    m.prompt_tokens = info.take("prompt_tokens").u32();
    m.cached_tokens = info.take("cached_tokens").u32();
    m.completion_tokens = info.take("completion_tokens").u32();
    m.queue_ms = info.take("queue_ms").duration();
    m.prefill_ms = info.take("prefill_ms").duration();
    m.decode_ms = info.take("decode_ms").duration();
    info.finish();
    return m;
}

Failure read_failure(Fields& f) {
    Failure m;
    const Value id = f.next("request_id");
    if (!id.is_nil()) m.request_id = id.str(kRequestIdBytesMax);
    m.code = f.next("code").str(kNameBytesMax);
    m.message = f.next("message").str(kNameBytesMax);
    m.retryable = f.next("retryable").boolean();
    m.committed = f.next("committed").u32();
    const Value retry_after = f.next("retry_after_ms");
    if (!retry_after.is_nil()) m.retry_after_ms = retry_after.u32();
    return m;
}

Pong read_pong(Fields& f) {
    Pong m;
    m.nonce = f.next("nonce").u64();
    m.router = f.next("router incarnation").u64(1);
    if (f.count() == kFrontPrefix + 2) return m;
    m.requests.emplace();
    Fields requests = f.next("requests").list(0, kPongRequestsMax);
    for (size_t i = 0; i < requests.count(); ++i) {
        Fields one = requests.next("request").list(3, 3);
        RunningRequest running;
        running.request_id = read_request_id(one);
        running.attempt = one.next("attempt").u32();
        running.tokens = one.next("tokens").u32();
        m.requests->push_back(std::move(running));
    }
    return m;
}

TraceReply read_trace_reply(Fields& f) {
    TraceReply m;
    m.request_id = read_request_id(f);
    const Value trace = f.next("trace");
    if (!trace.is_nil()) m.trace = read_trace(trace);
    return m;
}

struct BodyReader {
    size_t elements;
    RouterBody (*read)(Fields&);
};

std::optional<BodyReader> body_reader(uint8_t type) {
    switch (FrontType{type}) {
        case FrontType::kAccepted:
            return {{2, [](Fields& f) -> RouterBody { return read_accepted(f); }}};
        case FrontType::kPiece: return {{7, [](Fields& f) -> RouterBody { return read_piece(f); }}};
        case FrontType::kPromptPiece:
            return {{3, [](Fields& f) -> RouterBody { return read_prompt_piece(f); }}};
        case FrontType::kChoiceDone:
            return {{3, [](Fields& f) -> RouterBody { return read_choice_done(f); }}};
        case FrontType::kDone: return {{2, [](Fields& f) -> RouterBody { return read_done(f); }}};
        case FrontType::kFailure:
            return {{6, [](Fields& f) -> RouterBody { return read_failure(f); }}};
        case FrontType::kPong: return {{2, [](Fields& f) -> RouterBody { return read_pong(f); }}};
        case FrontType::kStatusReply:
            return {{1, [](Fields& f) -> RouterBody { return read_status(f.next("info")); }}};
        case FrontType::kTraceReply:
            return {{2, [](Fields& f) -> RouterBody { return read_trace_reply(f); }}};
        default: return std::nullopt;
    }
}

}  // namespace

Bytes encode_router(const RouterBody& message) {
    Bytes bytes;
    Writer writer(bytes);
    std::visit(Encoder{writer}, message);
    return bytes;
}

Result<RouterBody> decode_router(ByteView bytes) {
    const std::optional<Tree> tree =
        bytes.size() <= kFrontBytesMax ? Tree::parse(bytes) : std::nullopt;
    if (!tree) return Error{ErrorCode::kMalformed, "not a msgpack value of allowed size"};

    Problem problem;
    Fields fields = Value(&tree->root(), "message", problem).list(kFrontPrefix, kFrontElementsMax);
    fields.next("version").u8(kProtocolVersion, kProtocolVersion);
    const uint8_t type = fields.next("type").u8();
    const std::optional<BodyReader> reader = body_reader(type);
    if (!reader) problem.fail("type", "is unknown");
    const bool is_long_pong = FrontType{type} == FrontType::kPong &&
                              fields.count() == kFrontPrefix + 3;
    if (reader && fields.count() != kFrontPrefix + reader->elements && !is_long_pong) {
        problem.fail("message", "has another length than its type's");
    }
    RouterBody body;
    if (!problem.found()) body = reader->read(fields);
    if (problem.found()) return problem.error();
    return body;
}

}  // namespace chatloop::wire
