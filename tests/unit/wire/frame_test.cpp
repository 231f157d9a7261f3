// Data frames, samples and RESULTs.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <msgpack.hpp>

#include "chatloop/core/limits.hpp"
#include "examples.hpp"
#include "mutation.hpp"

namespace chatloop::wire::test {
namespace {

std::optional<DataFrame> decoded_frame(ByteView bytes) {
    const auto header = decode_header(bytes);
    if (!header.ok()) return std::nullopt;
    auto decoded = decode_frame(*header, bytes);
    if (auto* frame = std::get_if<DataFrame>(&decoded)) return std::move(*frame);
    return std::nullopt;
}

std::optional<ResultFrame> decoded_result(ByteView bytes) {
    const auto header = decode_header(bytes);
    if (!header.ok()) return std::nullopt;
    auto decoded = decode_result(*header, bytes);
    if (auto* frame = std::get_if<ResultFrame>(&decoded)) return std::move(*frame);
    return std::nullopt;
}

// The example frame with other items, whose rows are 1 wide.
bool accepts_items(const std::vector<Item>& items, DType dtype, uint32_t rows, uint32_t width) {
    size_t payload_at = 0;
    Bytes frame = encode_frame(header_example(kFrameData), {}, items, dtype, rows, width,
                               &payload_at);
    seal_frame(frame);
    return decoded_frame(frame).has_value();
}

bool accepts_item(const std::function<void(Item&)>& change) {
    std::vector<Item> items = item_examples();
    change(items[0]);
    uint32_t rows = 0;
    for (const Item& item : items) rows += item.rows;
    return accepts_items(items, DType::kF32, rows, 1);
}

// Where each element behind the header begins, and the end.
std::vector<size_t> element_offsets(const Bytes& frame, size_t count) {
    std::vector<size_t> offsets = {kHeaderBytes};
    for (size_t i = 0; i < count; ++i) {
        size_t at = offsets.back();
        msgpack::unpack(reinterpret_cast<const char*>(frame.data()), frame.size(), at);
        offsets.push_back(at);
    }
    return offsets;
}

std::string joined(const std::set<std::string>& set) {
    std::string text;
    for (const std::string& entry : set) text += entry + "; ";
    return text;
}

}  // namespace

TEST_CASE("CRC-32C known answers") {
    // RFC 3720, B.4, and the check value of the catalogue of CRCs
    const Bytes zeros(32, 0x00);
    const Bytes ones(32, 0xff);
    CHECK(slow_crc(zeros) == 0x8a9136aa);
    CHECK(slow_crc(ones) == 0x62a8ab43);
    const std::string check = "123456789";
    CHECK(slow_crc({reinterpret_cast<const uint8_t*>(check.data()), check.size()}) == 0xe3069283);
}

TEST_CASE("header fields lie where the page says") {
    const Bytes frame = frame_example();
    const uint8_t expected[48] = {
        0x9f, 0xcc, 0x01, 0xcc, 0x01,                                      // version, type
        0xcf, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44,              // router
        0xcf, 0,    0,    0,    0,    0,    0,    0,    5,                 // generation
        0xcf, 0,    0,    0,    0,    0,    0,    0,    6,                 // frame number
        0xcc, 0x02, 0xcf, 0x99, 0x99, 0xaa, 0xaa, 0xbb, 0xbb, 0xcc, 0xcc,  // hop, destination
        0xce, 0x00, 0x00, 0x75, 0x30,                                      // budget_ms
    };
    CHECK(std::memcmp(frame.data(), expected, sizeof expected) == 0);
    CHECK(frame[48] == 0xce);
    const uint32_t crc = slow_crc(ByteView(frame).first(48));
    for (int i = 0; i < 4; ++i) CHECK(frame[49 + i] == static_cast<uint8_t>(crc >> (24 - 8 * i)));
    CHECK(encode_result(result_example())[0] == 0x9c);
}

TEST_CASE("a frame survives the wire and its payload is not copied") {
    const Bytes bytes = frame_example();
    const auto frame = decoded_frame(bytes);
    REQUIRE(frame.has_value());
    CHECK(frame->header == header_example(kFrameData));
    CHECK(frame->timings == std::vector<HopTiming>{{10, 2000}, {0xffffffff, 1}});
    CHECK(frame->items == item_examples());
    CHECK(frame->dtype == DType::kF32);
    CHECK(frame->rows == 6);
    CHECK(frame->width == 4);
    CHECK(frame->payload.data() + frame->payload.size() == bytes.data() + bytes.size());
    CHECK(frame->payload.size() == 6 * 4 * 4);
}

TEST_CASE("the body CRC covers the elements 10 to 12 and 14") {
    const Bytes frame = frame_example();
    const std::vector<size_t> at = element_offsets(frame, 6);
    REQUIRE(at[6] == frame.size());
    const ByteView bytes(frame);
    const uint32_t described = slow_crc(bytes.subspan(at[1], at[4] - at[1]));
    const uint32_t crc = slow_crc(bytes.subspan(at[5]), described);
    CHECK(frame[at[4]] == 0xce);
    for (int i = 0; i < 4; ++i) {
        CHECK(frame[at[4] + 1 + i] == static_cast<uint8_t>(crc >> (24 - 8 * i)));
    }
}

TEST_CASE("patch_header changes the header alone") {
    Bytes bytes = frame_example();
    const Bytes before = bytes;
    FrameHeader next = header_example(kFrameData);
    next.hop = 3;
    next.destination = 1;
    next.budget_ms = 0xffffffff;
    patch_header(bytes.data(), next);
    const auto frame = decoded_frame(bytes);
    REQUIRE(frame.has_value());
    CHECK(frame->header == next);
    CHECK(std::equal(bytes.begin() + kHeaderBytes, bytes.end(), before.begin() + kHeaderBytes));
}

TEST_CASE("every flipped bit outside of the ext map is seen") {
    const Bytes frame = frame_example();
    const size_t ext_end = element_offsets(frame, 1)[1];
    for (size_t i = 0; i < frame.size(); ++i) {
        if (i >= kHeaderBytes && i < ext_end) continue;
        for (int bit = 0; bit < 8; ++bit) {
            Bytes flipped = frame;
            flipped[i] = static_cast<uint8_t>(flipped[i] ^ (1u << bit));
            CAPTURE(i);
            CHECK_FALSE(decoded_frame(flipped).has_value());
        }
    }
}

TEST_CASE("a payload that was damaged is told from a malformed frame") {
    Bytes frame = frame_example();
    frame.back() ^= 1;
    const auto damaged = decode_frame(*decode_header(frame), frame);
    REQUIRE(std::holds_alternative<FrameError>(damaged));
    CHECK(std::get<FrameError>(damaged).body_crc);
    frame.pop_back();
    const auto cut = decode_frame(*decode_header(frame), frame);
    REQUIRE(std::holds_alternative<FrameError>(cut));
    CHECK_FALSE(std::get<FrameError>(cut).body_crc);
}

TEST_CASE("a truncated frame is none") {
    const Bytes frame = frame_example();
    const Bytes result = encode_result(result_example());
    for (size_t n = 0; n < frame.size(); ++n) CHECK_FALSE(decoded_frame(ByteView(frame).first(n)));
    for (size_t n = 0; n < result.size(); ++n) {
        CHECK_FALSE(decoded_result(ByteView(result).first(n)));
    }
}

TEST_CASE("one wrong element makes a frame wrong, whatever its CRC") {
    const Bytes frame = frame_example();
    const std::vector<size_t> at = element_offsets(frame, 6);
    const std::vector<std::set<std::string>> expected = {
        {" smaller"},  // no timings
        {"/0/1 huge", "/0/6 shorter", "/0/7 shorter", "/1/1 huge"},
        {},
        {},
        {},
        {},
    };
    for (size_t element : {0, 1, 2, 3, 5}) {
        CAPTURE(element);
        const auto accepts = [&](ByteView replacement) {
            Bytes changed(frame.begin(), frame.begin() + at[element]);
            changed.insert(changed.end(), replacement.begin(), replacement.end());
            changed.insert(changed.end(), frame.begin() + at[element + 1], frame.end());
            seal_frame(changed);
            return decoded_frame(changed).has_value();
        };
        const size_t size = at[element + 1] - at[element];
        const ByteView original = ByteView(frame).subspan(at[element], size);
        CHECK(joined(accepted_mutations(original, accepts)) == joined(expected[element]));
    }
}

TEST_CASE("one wrong element makes a RESULT wrong, whatever its CRC") {
    const Bytes bytes = encode_result(result_example());
    const std::vector<size_t> at = element_offsets(bytes, 3);
    REQUIRE(at[3] == bytes.size());
    const auto accepts = [&](ByteView items) {
        Bytes changed(bytes.begin(), bytes.begin() + at[1]);
        changed.insert(changed.end(), items.begin(), items.end());
        const uint32_t crc = slow_crc(items);
        changed.push_back(0xce);
        for (int shift = 24; shift >= 0; shift -= 8) {
            changed.push_back(static_cast<uint8_t>(crc >> shift));
        }
        return decoded_result(changed).has_value();
    };
    const ByteView items = ByteView(bytes).subspan(at[1], at[2] - at[1]);
    REQUIRE(accepts(items));
    const std::set<std::string> expected = {" shorter", "/0/1 huge", "/0/3 shorter", "/1/1 huge"};
    CHECK(joined(accepted_mutations(items, accepts)) == joined(expected));
}

TEST_CASE("items are held against the page") {
    CHECK(accepts_item([](Item&) {}));
    CHECK_FALSE(accepts_item([](Item& i) { i.slot = 4095; }));  // named twice
    CHECK_FALSE(accepts_item([](Item& i) { i.slot = kSlotsMax; }));
    CHECK_FALSE(accepts_item([](Item& i) { i.admission = 0; }));
    CHECK_FALSE(accepts_item([](Item& i) { i.rows = 4; }));  // output 4 is beyond
    CHECK_FALSE(accepts_item([](Item& i) { i.flags = 8; }));
    CHECK_FALSE(accepts_item([](Item& i) { i.table_index = 1; }));  // FIRST
    CHECK_FALSE(accepts_item([](Item& i) { i.position = 65; }));    // FIRST
    CHECK_FALSE(accepts_item([](Item& i) { i.position = 256; }));   // beyond the blocks it names
    CHECK_FALSE(accepts_item([](Item& i) { i.outputs = {4, 1}; }));
    CHECK_FALSE(accepts_item([](Item& i) { i.outputs = {1, 1}; }));
    CHECK_FALSE(accepts_item([](Item& i) { i.blocks = {kNoBlock}; }));
    CHECK_FALSE(accepts_item([](Item& i) {
        i.flags = 0;
        i.position = kSequenceBlocksMax * 64 - 4;
    }));
    CHECK_FALSE(accepts_item([](Item& i) {
        i.flags = 0;
        i.table_index = kSequenceBlocksMax - 2;
    }));
}

TEST_CASE("rows and width are held against the items") {
    const std::vector<Item> items = item_examples();
    CHECK(accepts_items(items, DType::kF32, 6, 8));
    CHECK(accepts_items(items, DType::kF32, 2, 8));  // from the last stage: only the output rows
    CHECK_FALSE(accepts_items(items, DType::kF32, 5, 8));
    CHECK(accepts_items(items, DType::kIds, 6, 1));
    CHECK_FALSE(accepts_items(items, DType::kIds, 6, 2));
    CHECK_FALSE(accepts_items(items, DType::kIds, 2, 1));
    CHECK(accepts_items({}, DType::kF32, 0, 8));
}

TEST_CASE("a sample survives the wire, bit for bit") {
    Sample sample = sample_example();
    auto decoded = decode_sample(encode_sample(sample), 2);
    REQUIRE(decoded.ok());
    CHECK(*decoded == sample);
    CHECK(std::bit_cast<uint32_t>(decoded->top_p) == 1u);
    CHECK_FALSE(decode_sample(encode_sample(sample), 1).ok());
    CHECK_FALSE(decode_sample(encode_sample(sample), 3).ok());
    sample.targets.reset();
    sample.temperature = -0.0f;
    decoded = decode_sample(encode_sample(sample), 1);
    REQUIRE(decoded.ok());
    CHECK(std::bit_cast<uint32_t>(decoded->temperature) == 0x80000000u);
    CHECK_FALSE(decode_sample(encode_sample(sample), 2).ok());
    const std::string bytes = encode_sample(sample);
    for (size_t n = 0; n < bytes.size(); ++n) {
        CHECK_FALSE(decode_sample(bytes.substr(0, n), 1).ok());
    }
}

TEST_CASE("a sample's numbers keep their ranges") {
    const auto accepts = [](const std::function<void(Sample&)>& change) {
        Sample sample = sample_example();
        change(sample);
        return decode_sample(encode_sample(sample), 2).ok();
    };
    const float inf = std::numeric_limits<float>::infinity();
    CHECK(accepts([](Sample&) {}));
    for (float bad : {-0.1f, 100.1f, inf, -inf, std::nanf("")}) {
        CHECK_FALSE(accepts([&](Sample& s) { s.temperature = bad; }));
        CHECK_FALSE(accepts([&](Sample& s) { s.top_p = bad; }));
        CHECK_FALSE(accepts([&](Sample& s) { s.min_p = bad; }));
        CHECK_FALSE(accepts([&](Sample& s) { s.typical_p = bad; }));
    }
    CHECK_FALSE(accepts([](Sample& s) { s.top_p = 0.0f; }));
    CHECK_FALSE(accepts([](Sample& s) { s.typical_p = 0.0f; }));
    CHECK_FALSE(accepts([](Sample& s) { s.logprobs = 34; }));
    for (float bad : {-2.1f, 2.1f, inf, -inf, std::nanf("")}) {
        CHECK_FALSE(accepts([&](Sample& s) { s.frequency_penalty = bad; }));
        CHECK_FALSE(accepts([&](Sample& s) { s.presence_penalty = bad; }));
    }
    for (float bad : {-1.0f, 0.0f, 10.1f, inf, std::nanf("")})
        CHECK_FALSE(accepts([&](Sample& s) { s.repetition_penalty = bad; }));
    for (float bad : {-100.1f, 100.1f, inf, std::nanf("")})
        CHECK_FALSE(accepts([&](Sample& s) { s.logit_bias[1].bias = bad; }));
    CHECK_FALSE(accepts([](Sample& s) { s.logit_bias.resize(kLogitBiasMax + 1); }));
    CHECK_FALSE(accepts([](Sample& s) { s.history.resize(kHistoryIdsMax + 1); }));
}

TEST_CASE("the longest history, bias and mask together fit the samples of a frame") {
    Sample sample = sample_example();
    sample.masked.assign(2 * kStopTokenIdsMax, UINT32_MAX);
    sample.logit_bias.assign(kLogitBiasMax, {UINT32_MAX, 1.0f});
    sample.history.assign(kHistoryIdsMax, {UINT32_MAX, 0, 1});  // counts of 128 cost others theirs
    CHECK(encode_sample(sample).size() <= kFrameItemBytesMax);
    CHECK(decode_sample(encode_sample(sample), 2).ok());
}

TEST_CASE("a sample's ext has each key once, in order, and no other") {
    const auto with_ext = [](std::initializer_list<uint8_t> ext) {
        Sample sample;
        std::string bytes = encode_sample(sample);
        REQUIRE(bytes.back() == '\x80');
        bytes.pop_back();
        bytes.insert(bytes.end(), ext.begin(), ext.end());
        return decode_sample(bytes, 1).ok();
    };
    CHECK(with_ext({0x80}));
    CHECK(with_ext({0x82, 1, 0x91, 7, 2, 0x90}));
    CHECK_FALSE(with_ext({0x82, 2, 0x90, 1, 0x91, 7}));
    CHECK_FALSE(with_ext({0x82, 1, 0x91, 7, 1, 0x91, 8}));
    CHECK_FALSE(with_ext({0x81, 4, 0x90}));
    CHECK_FALSE(with_ext({0x81, 0, 0x90}));
    CHECK_FALSE(with_ext({0x81, 2, 0x91, 7}));  // an id without its bias
}

TEST_CASE("one wrong element makes a sample wrong") {
    const std::string text = encode_sample(sample_example());
    const Bytes bytes(text.begin(), text.end());
    const auto accepts = [](ByteView view) {
        return decode_sample({reinterpret_cast<const char*>(view.data()), view.size()}, 2).ok();
    };
    const std::set<std::string> expected = {"/1 huge",       "/10 smaller",  "/10/1 shorter",
                                            "/9/0 number",   "/9/1 nil"};
    CHECK(joined(accepted_mutations(bytes, accepts)) == joined(expected));
}

TEST_CASE("a RESULT survives the wire") {
    const ResultFrame result = result_example();
    const auto decoded = decoded_result(encode_result(result));
    REQUIRE(decoded.has_value());
    CHECK(decoded->header == result.header);
    CHECK(decoded->timings == result.timings);
    CHECK(decoded->items == result.items);
    CHECK(std::signbit(decoded->items[0].outputs[1].logprob));
    CHECK_FALSE(decoded_frame(encode_result(result)).has_value());
    CHECK_FALSE(decoded_result(frame_example()).has_value());
}

}  // namespace chatloop::wire::test
