// Control messages (docs/protocol.md, Control), in the order of the page.
#include "chatloop/core/limits.hpp"
#include "reader.hpp"
#include "writer.hpp"

namespace chatloop::wire {
namespace {

// The type of each message on the wire.
enum class Type : uint8_t {
    kHello = 1,
    kReady = 2,
    kUnreachable = 3,
    kFenced = 4,
    kGap = 5,
    kWorkerHeartbeat = 6,
    kBye = 7,
    kWelcome = 33,
    kReject = 34,
    kRoute = 35,
    kFence = 36,
    kRouterHeartbeat = 37,
    kUnknown = 38,
};

constexpr uint8_t kRolesBoth = kRoleStage | kRoleSampler;
constexpr size_t kRouteReportsMax = kGenerationsHeldMax * kHopsMax;
constexpr uint8_t kHopMax = kHopsMax - 1;

// ---- encoding: one overload per message writes the type's body ----

class Encoder {
public:
    Encoder(const Control& message, Bytes& out) : message_(message), writer_(out) {}

    void operator()(const Hello& m) {
        begin(Type::kHello, 15).str(m.name).number(m.roles).number(m.layer_first);
        writer_.number(m.layer_end).number(m.layers).number(m.width).number(m.vocab);
        writer_.str(m.endpoint).str(m.model_id).str(m.cut_id).number(m.fingerprint);
        writer_.str(m.kernels).number(m.self_test);
        writer_.array(4).number(m.share.frames).number(m.share.bytes).number(m.share.slots);
        writer_.number(m.share.blocks);
        writer_.str(m.kv_cache_dtype);
    }
    void operator()(const Ready& m) { begin(Type::kReady, 1).number(m.generation); }
    void operator()(const Unreachable& m) {
        begin(Type::kUnreachable, 3).number(m.generation).number(m.hop).number(m.peer);
    }
    void operator()(const Fenced& m) { begin(Type::kFenced, 1).number(m.through); }
    void operator()(const Gap& m) {
        begin(Type::kGap, 5).number(m.generation).number(m.hop).number(m.expected).number(m.got);
        writer_.number(static_cast<uint8_t>(m.reason));
    }
    void operator()(const WorkerHeartbeat& m) {
        begin(Type::kWorkerHeartbeat, 6).number(static_cast<uint8_t>(m.state));
        writer_.number(m.loop_gap_us).number(m.frames_held).number(m.fenced_through);
        writer_.array(m.routes.size());
        for (const RouteReport& route : m.routes) {
            writer_.array(6).number(route.generation).number(route.hop).number(route.accepted);
            writer_.number(route.forwarded).boolean(route.link_up).boolean(route.egress_empty);
        }
        writer_.array(kWorkerCounters.size());
        for (const WorkerCounter& counter : kWorkerCounters)
            writer_.number(m.counters.*counter.value);
    }
    void operator()(const Bye& m) { begin(Type::kBye, 1).sentence(m.reason); }
    void operator()(const Welcome& m) {
        begin(Type::kWelcome, 5).number(m.worker).str(m.router_name);
        writer_.number(m.heartbeat_interval_ms).number(m.failure_threshold);
        writer_.str(m.result_endpoint);
    }
    void operator()(const Reject& m) {
        begin(Type::kReject, 3).str(m.code).sentence(m.reason).boolean(m.retryable);
    }
    void operator()(const Route& m) {
        begin(Type::kRoute, 5).number(m.generation).number(m.fences_through);
        writer_.number(m.slots).number(m.blocks).array(m.hops.size());
        for (const RouteHop& hop : m.hops) {
            writer_.array(5).number(hop.hop).number(hop.role).str(hop.next_endpoint);
            writer_.number(hop.next).boolean(hop.outputs_only);
        }
    }
    void operator()(const Fence& m) { begin(Type::kFence, 1).number(m.through); }
    void operator()(const RouterHeartbeat& m) {
        begin(Type::kRouterHeartbeat, 3).number(m.echo).number(m.fence_through);
        writer_.array(m.generations.size());
        for (Generation generation : m.generations) writer_.number(generation);
    }
    void operator()(const Unknown&) { begin(Type::kUnknown, 0); }

private:
    Writer& begin(Type type, size_t body_elements) {
        writer_.array(4 + body_elements).number(kProtocolVersion);
        return writer_.number(static_cast<uint8_t>(type))
            .number(message_.sender)
            .number(message_.sequence);
    }

    const Control& message_;
    Writer writer_;
};

// ---- decoding: `f` stands behind the sequence ----

Hello read_hello(Fields& f) {
    Hello m;
    m.name = f.next("name").str(kNameBytesMax);
    m.roles = f.next("roles").u8(1, kRolesBoth);
    m.layer_first = f.next("layer_first").u32();
    m.layer_end = f.next("layer_end").u32(m.layer_first);
    m.layers = f.next("layers").u32(m.layer_end);
    m.width = f.next("width").u32(1, kWidthMax);
    m.vocab = f.next("vocab").u32(1);
    m.endpoint = f.next("endpoint").str(kNameBytesMax);
    m.model_id = f.next("model_id").str(kNameBytesMax);
    m.cut_id = f.next("cut_id").str(kNameBytesMax);
    m.fingerprint = f.next("fingerprint").u64();
    m.kernels = f.next("kernels").str(kNameBytesMax);
    m.self_test = f.next("self_test").u64();
    Fields share = f.next("share").fields(4);
    m.share.frames = share.next("share frames").u32(0, kShareFramesMax);
    m.share.bytes = share.next("share bytes").u64(0, kShareBytesMax);
    m.share.slots = share.next("share slots").u32(0, kSlotsMax);
    m.share.blocks = share.next("share blocks").u32(0, kNoBlock);
    m.kv_cache_dtype = f.next("kv_cache_dtype").str(kNameBytesMax);
    return m;
}

Ready read_ready(Fields& f) {
    return {f.next("generation").u64(1)};
}

Unreachable read_unreachable(Fields& f) {
    Unreachable m;
    m.generation = f.next("generation").u64(1);
    m.hop = f.next("hop").u8(0, kHopMax);
    m.peer = f.next("peer incarnation").u64(1);
    return m;
}

Gap read_gap(Fields& f) {
    Gap m;
    m.generation = f.next("generation").u64(1);
    m.hop = f.next("hop").u8(0, kHopMax);
    m.expected = f.next("expected").u64();
    m.got = f.next("got").u64();
    const Value reason = f.next("reason");
    m.reason = GapReason{reason.u8(1, 5)};
    constexpr uint8_t kUnused = 4;
    if (m.reason == GapReason{kUnused}) reason.fail("is not used");
    return m;
}

WorkerHeartbeat read_worker_heartbeat(Fields& f) {
    WorkerHeartbeat m;
    m.state = WorkerState{f.next("state").u8(1, 3)};
    m.loop_gap_us = f.next("loop_gap_us").u32();
    m.frames_held = f.next("frames_held").u32();
    m.fenced_through = f.next("fenced_through").u64();
    Fields routes = f.next("routes").list(0, kRouteReportsMax);
    for (size_t i = 0; i < routes.count(); ++i) {
        Fields entry = routes.next("route").fields(6);
        RouteReport route;
        route.generation = entry.next("route generation").u64(1);
        route.hop = entry.next("route hop").u8(0, kHopMax);
        route.accepted = entry.next("route accepted").u64();
        route.forwarded = entry.next("route forwarded").u64();
        route.link_up = entry.next("route link_up").boolean();
        route.egress_empty = entry.next("route egress_empty").boolean();
        m.routes.push_back(route);
    }
    Fields counters = f.next("counters").fields(kWorkerCounters.size());
    for (const WorkerCounter& counter : kWorkerCounters)
        m.counters.*counter.value = counters.next(counter.name).u64();
    return m;
}

Welcome read_welcome(Fields& f) {
    Welcome m;
    m.worker = f.next("worker incarnation").u64(1);
    m.router_name = f.next("router name").str(kNameBytesMax);
    m.heartbeat_interval_ms = f.next("heartbeat_interval_ms").u32(1);
    m.failure_threshold = f.next("failure_threshold").u32(1);
    m.result_endpoint = f.next("result endpoint").str(kNameBytesMax);
    return m;
}

Reject read_reject(Fields& f) {
    Reject m;
    m.code = f.next("code").str(kNameBytesMax);
    m.reason = f.next("reason").str(kNameBytesMax);
    m.retryable = f.next("retryable").boolean();
    return m;
}

Route read_route(Fields& f) {
    Route m;
    m.generation = f.next("generation").u64(1);
    m.fences_through = f.next("fences_through").u64(0, m.generation - 1);
    m.slots = f.next("slots").u32(0, kSlotsMax);
    m.blocks = f.next("blocks").u32();
    Fields hops = f.next("hops").list(1, kHopsMax);
    for (size_t i = 0; i < hops.count(); ++i) {
        Fields entry = hops.next("hop").fields(5);
        RouteHop hop;
        hop.hop = entry.next("hop number").u8(0, kHopMax);
        hop.role = entry.next("hop role").u8(kRoleStage, kRoleSampler);
        hop.next_endpoint = entry.next("hop next endpoint").str(kNameBytesMax);
        hop.next = entry.next("hop next incarnation").u64(1);
        hop.outputs_only = entry.next("hop outputs_only").boolean();
        m.hops.push_back(std::move(hop));
    }
    return m;
}

RouterHeartbeat read_router_heartbeat(Fields& f) {
    RouterHeartbeat m;
    m.echo = f.next("echo").u64();
    m.fence_through = f.next("fence_through").u64();
    Fields generations = f.next("generations").list(0, kGenerationsHeldMax);
    for (size_t i = 0; i < generations.count(); ++i) {
        m.generations.push_back(generations.next("generation").u64(1));
    }
    return m;
}

struct BodyReader {
    size_t elements;  // of the body
    ControlBody (*read)(Fields&);
};

// Nothing for a type that is not of the page.
std::optional<BodyReader> body_reader(uint8_t type) {
    switch (Type{type}) {
        case Type::kHello: return {{15, [](Fields& f) -> ControlBody { return read_hello(f); }}};
        case Type::kReady: return {{1, [](Fields& f) -> ControlBody { return read_ready(f); }}};
        case Type::kUnreachable:
            return {{3, [](Fields& f) -> ControlBody { return read_unreachable(f); }}};
        case Type::kFenced:
            return {{1, [](Fields& f) -> ControlBody { return Fenced{f.next("through").u64()}; }}};
        case Type::kGap: return {{5, [](Fields& f) -> ControlBody { return read_gap(f); }}};
        case Type::kWorkerHeartbeat:
            return {{6, [](Fields& f) -> ControlBody { return read_worker_heartbeat(f); }}};
        case Type::kBye:
            return {{1, [](Fields& f) -> ControlBody {
                         return Bye{f.next("reason").str(kNameBytesMax)};
                     }}};
        case Type::kWelcome: return {{5, [](Fields& f) -> ControlBody { return read_welcome(f); }}};
        case Type::kReject: return {{3, [](Fields& f) -> ControlBody { return read_reject(f); }}};
        case Type::kRoute: return {{5, [](Fields& f) -> ControlBody { return read_route(f); }}};
        case Type::kFence:
            return {{1, [](Fields& f) -> ControlBody { return Fence{f.next("through").u64()}; }}};
        case Type::kRouterHeartbeat:
            return {{3, [](Fields& f) -> ControlBody { return read_router_heartbeat(f); }}};
        case Type::kUnknown: return {{0, [](Fields&) -> ControlBody { return Unknown{}; }}};
    }
    return std::nullopt;
}

constexpr size_t kPrefixElements = 4;  // version, type, sender, sequence
constexpr size_t kElementsMax = kPrefixElements + 15;

}  // namespace

Bytes encode_control(const Control& message) {
    Bytes bytes;
    Encoder encoder(message, bytes);
    std::visit(encoder, message.body);
    return bytes;
}

Result<Control> decode_control(ByteView bytes) {
    const std::optional<Tree> tree =
        bytes.size() <= kControlBytesMax ? Tree::parse(bytes) : std::nullopt;
    if (!tree) return Error{ErrorCode::kMalformed, "not a msgpack value of allowed size"};

    Problem problem;
    Fields fields = Value(&tree->root(), "message", problem).list(kPrefixElements, kElementsMax);
    fields.next("version").u8(kProtocolVersion, kProtocolVersion);
    const uint8_t type = fields.next("type").u8();
    Control message;
    message.sender = fields.next("sender").u64(1);
    message.sequence = fields.next("sequence").u64();
    const std::optional<BodyReader> reader = body_reader(type);
    if (!reader) problem.fail("type", "is unknown");
    if (reader && fields.count() != kPrefixElements + reader->elements) {
        problem.fail("message", "has another length than its type's");
    }
    if (!problem.found()) message.body = reader->read(fields);
    if (problem.found()) return problem.error();
    return message;
}

}  // namespace chatloop::wire
