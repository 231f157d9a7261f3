#include "examples.hpp"

#include <limits>

namespace chatloop::wire::test {

std::vector<Control> control_examples() {
    Hello hello;
    hello.name = "worker-\xc3\xa4";
    hello.roles = 3;
    hello.layer_first = 4;
    hello.layer_end = 9;
    hello.layers = 30;
    hello.width = 576;
    hello.vocab = 49152;
    hello.endpoint = "tcp://127.0.0.1:7200";
    hello.model_id = "model";
    hello.cut_id = "cut";
    hello.fingerprint = 0xfedcba9876543210;
    hello.kernels = "avx512";
    hello.self_test = 77;
    hello.share = {8, 1u << 20, 64, 4000};
    hello.kv_cache_dtype = "int8";

    const WorkerCounters counters{1, 2, 3, 4, 5, 6, 7, std::numeric_limits<uint64_t>::max()};
    WorkerHeartbeat beat{WorkerState::kReady, 1500, 3, 6, {}, counters};
    beat.routes.push_back({7, 0, 100, 99, true, false});
    beat.routes.push_back({8, 2, 1, 0, false, true});

    Route route{9, 7, 128, 4096, {}};
    route.hops.push_back({0, kRoleStage, "", 54, false});
    route.hops.push_back({1, kRoleSampler, "ipc:///tmp/x", 55, true});

    const std::vector<ControlBody> bodies = {
        hello,
        Ready{5},
        Unreachable{5, 2, 99},
        Fenced{4},
        Gap{5, 1, 10, 12, GapReason::kMalformed},
        beat,
        Bye{"drained"},
        Welcome{42, "router-a", 200, 4, "tcp://127.0.0.1:7102"},
        Reject{"fingerprint_mismatch", "another model", true},
        route,
        Fence{6},
        RouterHeartbeat{12, 3, {4, 5, std::numeric_limits<uint64_t>::max()}},
        Unknown{},
    };
    std::vector<Control> messages;
    for (const ControlBody& body : bodies) {
        messages.push_back({0x0123456789abcdef, messages.size() + 1, body});
    }
    return messages;
}

std::vector<ClientBody> client_examples() {
    Parameters text;
    text.prompt = std::string("Gr\xc3\xbc\xc3\x9f Gott");
    text.model = "smollm2";
    text.max_tokens = 17;
    text.temperature = 0.7f;
    text.top_p = 0.9f;
    text.top_k = 40;
    text.min_p = 0.05f;
    text.typical_p = 0.95f;
    text.repetition_penalty = 1.1f;
    text.presence_penalty = -0.5f;
    text.frequency_penalty = 2.0f;
    text.logit_bias = {{5, -100.0f}, {70000, 0.25f}};
    text.n = 3;
    text.min_tokens = 4;
    text.seed = std::numeric_limits<uint64_t>::max();
    text.stop = {"\n\n", "END"};
    text.stop_token_ids = {2, 3};
    text.echo = true;
    text.logprobs = 5;
    text.prompt_logprobs = 0;
    text.ignore_eos = true;
    text.priority = -7;
    text.deadline_ms = 30'000;
    text.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    Parameters chat;
    chat.prompt = std::vector<Message>{{"system", "be brief"}, {"user", ""}};
    chat.constraint = Constraint{ConstraintKind::kJsonSchema, {"{\"type\": \"integer\"}"}};
    chat.tools = "[{\"type\": \"function\"}]";
    chat.chat_template_kwargs = "{\"enable_thinking\": false}";
    Message asks{"assistant", "", false, "[{\"id\": \"call_1\"}]", "", ""};
    Message tells{"tool", "12 degrees", true, "", "call_1", "weather"};
    Parameters tools = chat;
    tools.prompt = std::vector<Message>{{"user", "?"}, asks, tells};
    tools.constraint = Constraint{ConstraintKind::kJsonObject, {}};
    Parameters ids;
    ids.constraint = Constraint{ConstraintKind::kChoice, {"yes", "no"}};
    ids.prompt = std::vector<uint32_t>{1, 70000, 3};

    Parameters choices = ids;
    choices.n = 2;

    const Progress progress{{1, 2, 300}, {{4}}, 99, "0123456789abcdef"};
    const Progress of_two{{1}, {{4, 5}, {}}, 99, "0123456789abcdef"};
    return {Submit{"r-1", text},         Submit{"r-2", chat}, Cancel{"r-1"},
            Resume{"r-3", 2, ids, progress}, Ping{987654321}, Ping{5, true},    StatusQuery{},
            Resume{"r-4", 1, choices, of_two},  Submit{"r-5", tools},
            TraceQuery{"r-\"\n"}};
}

std::vector<RouterBody> router_examples() {
    const TokenEntry entry{7, -0.25f, {{7, -0.25f}, {8, -1.5f}}};
    Piece piece{"r", 3, {7, 9}, "\xe2\x82\xac", 12, {}, 0};
    Piece piece_with_logprobs = piece;
    piece_with_logprobs.choice = 15;
    piece_with_logprobs.logprobs = {entry, {9, -1e-40f, {}}};

    Done by_string{"r", "stop", std::string("END"), 10, 4, 20, 0.5, 1.5, 2.5};
    Done by_id = by_string;
    by_id.stop = uint32_t{2};
    Done by_length = by_string;
    by_length.finish_reason = "length";
    by_length.stop = std::monostate{};

    StatusReply status;
    status.router = "router-a";
    status.model = "smollm2";
    status.fingerprint = "00112233445566ff";
    status.no_route = "layers 15-29 are missing";
    status.running = 2;
    status.waiting = 3;
    status.backlog_bytes = 70000;
    const HistogramStatus step{"step_s", {0.001, 0.5}, {3, 0, 1}, 2.5};
    status.workers.push_back({"w", 1, 0, 15, "ready", "avx2", "f16", {{"frames_gap", 3}}, 4, 1500,
                              {{1, 4, 64, 2'500'000, 100, 3'000'000, step}}});
    status.uptime_us = 3'600'000'000;
    status.requests = {{"r-1", "decode", 10, 3, 1234, 7}, {"r-2", "waiting", 0, 0, 0, 0}};
    status.events = {{1, 5000, false, "worker w joined"}, {2, 0, true, "route 6 is down"}};
    status.counters = {{"requests", 5}, {"rejected", std::numeric_limits<uint64_t>::max()}};
    status.errors = {{"worker_lost", 2}};
    status.routes.push_back({7, true, {{"w", 1234}, {"v", 0}}, 2, {{"kv_held", 12}}});
    status.histograms = {{"queue_ms", {1.0, 2.5}, {3, 0, 1}, 9.25}, {"empty", {}, {0}, 0.0}};
    const Span root{"request", 5, 0, 0, 1000, {{"request_id", "r"}, {"prompt_tokens", 3u}}};
    const Trace trace{"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", true,
                      {root, {"decode stage 0", 6, 5, 10, 20, {}}}};
    return {
        Accepted{"r", {1, 2, 70000}, 5, "0123456789abcdef", "smollm2", {}},
        Accepted{"r", {}, 5, "0123456789abcdef", "smollm2", "hello"},
        piece,
        piece_with_logprobs,
        PromptPiece{"r", 0, {std::nullopt, entry}},
        PromptPiece{"r", 64, {entry}},
        by_string,
        by_id,
        by_length,
        Failure{"r", "worker_lost", "a worker died", true, 12, {}},
        Failure{"r", "queue_full", "too many", true, 0, 1500},
        Failure{{}, "malformed", "what was that", false, 0, {}},
        Pong{5, 6, {}}, Pong{5, 6, {{}}}, Pong{5, 6, {{{"r-1", 0, 0}, {"r-2", 3, 70000}}}},
        status,
        ChoiceDone{"r", 1, "stop", std::string("END"), 20},
        ChoiceDone{"r", 0, "length", {}, 20},
        TraceReply{"r", std::nullopt},
        TraceReply{"r", trace},
    };
}

Sample sample_example() {
    Sample sample;
    sample.index = 9;
    sample.seed = 0xffffffffffffffff;
    sample.choice = 1;
    sample.temperature = 0.7f;
    sample.top_k = 50;
    sample.top_p = std::numeric_limits<float>::denorm_min();
    sample.min_p = 0.1f;
    sample.typical_p = 0.3f;
    sample.logprobs = 33;
    sample.targets = std::vector<std::optional<uint32_t>>{std::nullopt, 70000};
    sample.masked = {2, 49151};
    sample.logit_bias = {{5, -100.0f}, {70000, 2.0f}};
    sample.repetition_penalty = 1.5f;
    sample.frequency_penalty = -2.0f;
    sample.presence_penalty = 0.25f;
    sample.history = {{7, 0, 300}, {70000, 2, 0}};
    sample.allowed = std::string("\x00\xff\x81", 3);
    return sample;
}

std::vector<Item> item_examples() {
    Item prefill;
    prefill.slot = 3;
    prefill.admission = 11;
    prefill.position = 128;
    prefill.rows = 5;
    prefill.flags = kItemFirst | kItemReplay;
    prefill.blocks = {100, 7, 8};
    prefill.outputs = {1, 4};
    prefill.sample = encode_sample(sample_example());
    Item quiet;
    quiet.slot = 4095;
    quiet.admission = 0xffffffffffffffff;
    quiet.position = 77;
    quiet.rows = 1;
    quiet.table_index = 2;
    return {prefill, quiet};
}

FrameHeader header_example(uint8_t type) {
    return {type, 0x1111222233334444, 5, 6, 2, 0x9999aaaabbbbcccc, 30000};
}

Bytes frame_example(uint32_t width) {
    const std::vector<HopTiming> timings = {{10, 2000}, {0xffffffff, 1}};
    size_t payload_at = 0;
    Bytes frame = encode_frame(header_example(kFrameData), timings, item_examples(), DType::kF32,
                               /*rows=*/6, width, &payload_at);
    for (size_t i = payload_at; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i * 37);
    seal_frame(frame);
    return frame;
}

ResultFrame result_example() {
    ResultFrame result;
    result.header = header_example(kFrameResult);
    result.timings = {{1, 2}, {3, 4}, {5, 6}};
    ResultItem first{3, 11, ItemError::kNone, {}};
    first.outputs.push_back({1, 1, 42, -0.5f, {{42, -0.5f}, {43, -2.0f}}});
    first.outputs.push_back({4, 2, 70000, -0.0f, {}});
    result.items = {first, {4095, 12, ItemError::kRefused, {}}};
    return result;
}

uint32_t slow_crc(ByteView bytes, uint32_t crc) {
    constexpr uint32_t kReversedPolynomial = 0x82f63b78;
    crc = ~crc;
    for (uint8_t byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? kReversedPolynomial : 0);
        }
    }
    return ~crc;
}

}  // namespace chatloop::wire::test
