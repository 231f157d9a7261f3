// Rule 3 of docs/protocol.md: which frames are executed, which are dropped, which are reported.
#include <doctest/doctest.h>

#include "helpers.hpp"

using namespace chatloop;
using namespace chatloop::test;

namespace {

wire::FrameHeader header_of(const wire::Bytes& bytes) {
    const Result<wire::FrameHeader> header = wire::decode_header(bytes);
    REQUIRE(header.ok());
    return *header;
}

}  // namespace

TEST_CASE("frames are accepted by number, executed once and forwarded in order") {
    InstalledStage h;
    for (FrameNumber number = 1; number <= 3; ++number) h.data({.number = number});
    h.run();
    REQUIRE(h.outbox.data.size() == 3);
    for (size_t i = 0; i < 3; ++i) {
        const wire::FrameHeader header = header_of(h.outbox.data[i].bytes);
        CHECK(header.number == i + 1);
        CHECK(header.hop == 1);
        CHECK(header.destination == kNext);
        CHECK(header.router == kRouterA);
        CHECK(header.type == wire::kFrameData);
        CHECK(h.outbox.data[i].link == h.outbox.link_to("next"));
    }
    CHECK(h.counters().frames_executed == 3);
    CHECK(h.trace == "S1S2S3");
}

TEST_CASE("a number that was accepted is dropped and counted, without a report") {
    InstalledStage h;
    h.data({.number = 1});
    h.data({.number = 1});  // while it is queued
    h.run();
    h.data({.number = 1});  // and after it has left
    h.run();
    CHECK(h.counters().frames_duplicate == 2);
    CHECK(h.counters().frames_executed == 1);
    CHECK(h.outbox.controls<wire::Gap>().empty());
}

TEST_CASE("each frame beyond a gap is reported once, and the missing one is still accepted") {
    InstalledStage h;
    h.data({.number = 1});
    h.data({.number = 3});
    h.data({.number = 4});
    h.run();
    const auto gaps = h.outbox.controls<wire::Gap>();
    REQUIRE(gaps.size() == 2);
    CHECK(gaps[0] == wire::Gap{1, 0, 2, 3, wire::GapReason::kNumber});
    CHECK(gaps[1] == wire::Gap{1, 0, 2, 4, wire::GapReason::kNumber});
    CHECK(h.trace == "S1");
    h.data({.number = 2});
    h.run();
    CHECK(h.trace == "S1S2");
    CHECK(h.counters().frames_gap == 2);
}

TEST_CASE("number 0 is below every expected one") {
    InstalledStage h;
    h.data({.number = 0});
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.counters().frames_duplicate + h.counters().headers_bad == 1);
}

TEST_CASE("a frame of a generation that was never installed is reported") {
    InstalledStage h;
    h.data({.generation = 2});
    CHECK_FALSE(h.worker->has_work());
    const auto gaps = h.outbox.controls<wire::Gap>();
    REQUIRE(gaps.size() == 1);
    CHECK(gaps[0].generation == 2);
    CHECK(gaps[0].got == 1);
    CHECK(gaps[0].reason == wire::GapReason::kUnknownGeneration);
}

TEST_CASE("a header CRC that is off drops the frame without trusting any field") {
    const wire::Bytes good = make_frame({});
    for (size_t at = 0; at < wire::kHeaderBytes; ++at) {
        CAPTURE(at);
        InstalledStage h;
        wire::Bytes bad = good;
        bad[at] ^= 0x10;
        h.raw(bad);
        CHECK_FALSE(h.worker->has_work());
        CHECK(h.counters().headers_bad == 1);
        CHECK(h.outbox.controls<wire::Gap>().empty());
    }
    InstalledStage h;
    h.raw(wire::Bytes(good.begin(), good.begin() + wire::kHeaderBytes - 1));
    h.raw(wire::Bytes{});
    CHECK(h.counters().headers_bad == 2);
}

TEST_CASE("a body CRC that is off is reported, not executed, and the number stays expected") {
    InstalledStage h;
    wire::Bytes bad = make_frame({});
    bad.back() ^= 1;
    h.raw(bad);
    const auto gaps = h.outbox.controls<wire::Gap>();
    REQUIRE(gaps.size() == 1);
    CHECK(gaps[0] == wire::Gap{1, 0, 1, 1, wire::GapReason::kBodyCrc});
    CHECK_FALSE(h.worker->has_work());
    h.data({.number = 1});
    h.run();
    CHECK(h.counters().frames_executed == 1);
}

TEST_CASE("a frame that ends early is reported as malformed") {
    InstalledStage h;
    wire::Bytes bad = make_frame({});
    bad.pop_back();
    h.raw(bad);
    const auto gaps = h.outbox.controls<wire::Gap>();
    REQUIRE(gaps.size() == 1);
    CHECK(gaps[0].reason == wire::GapReason::kMalformed);
    CHECK_FALSE(h.worker->has_work());
}

TEST_CASE("a frame for a hop that this process is not is reported as malformed") {
    InstalledStage h;
    h.data({.hop = 1});
    const auto gaps = h.outbox.controls<wire::Gap>();
    REQUIRE(gaps.size() == 1);
    CHECK(gaps[0].hop == 1);
    CHECK(gaps[0].reason == wire::GapReason::kMalformed);
    CHECK_FALSE(h.worker->has_work());
}

TEST_CASE("a frame for another process or of another router is dropped and counted") {
    InstalledStage h;
    h.data({.destination = kNext});
    h.data({.router = kRouterB});
    wire::ResultFrame result;
    result.header = header_of(make_frame({}));
    result.header.type = wire::kFrameResult;
    h.raw(wire::encode_result(result));
    CHECK_FALSE(h.worker->has_work());
    CHECK(h.counters().frames_misdirected == 3);
    CHECK(h.outbox.controls<wire::Gap>().empty());
}

TEST_CASE("a frame that would be too large for the next hop is refused as malformed") {
    // As large as a frame may be: this hop's timing has no room.
    const wire::FrameHeader header{wire::kFrameData, kRouterA, 1, 1, 0, kSelf, 0};
    std::vector<wire::Item> items(16);
    const std::string sample(kSampleBytesMax, '\0');
    for (size_t i = 0; i < items.size(); ++i) {
        items[i].slot = static_cast<Slot>(i);
        items[i].admission = i + 1;
        items[i].rows = 1;
        items[i].outputs = {0};
        items[i].sample = i == 0 ? sample.substr(0, kSampleBytesMax - 600) : sample;
    }
    size_t at = 0;
    const auto rows = static_cast<uint32_t>(items.size());
    wire::Bytes bytes = wire::encode_frame(header, {}, items, wire::DType::kF32, rows, 1, &at);
    wire::seal_frame(bytes);
    items[0].sample = sample.substr(0, items[0].sample.size() + kFrameBytesMax - bytes.size());
    bytes = wire::encode_frame(header, {}, items, wire::DType::kF32, rows, 1, &at);
    wire::seal_frame(bytes);
    REQUIRE(bytes.size() == kFrameBytesMax);

    InstalledStage h;
    h.raw(bytes);
    h.run();
    CHECK(h.counters().frames_executed == 0);
    REQUIRE(h.outbox.controls<wire::Gap>().size() == 1);
    CHECK(h.outbox.controls<wire::Gap>()[0].reason == wire::GapReason::kMalformed);
}

TEST_CASE("more frames than the share pays for are refused, not queued without bound") {
    InstalledStage h;
    for (FrameNumber number = 1; number <= 100; ++number) h.data({.number = number});
    CHECK(h.outbox.controls<wire::Gap>().size() >= 100 - 2 * 4);
    h.run();
    CHECK(h.counters().frames_executed <= 2 * 4);
}

TEST_CASE("the budget loses this hop's time but never reads as no deadline") {
    for (const auto& [before, spent_us, after] :
         {std::tuple<uint32_t, TimeUs, uint32_t>{0, 50'000, 0}, {100, 30'000, 70},
          {100, 30'999, 70}, {100, 100'000, 1}, {100, 900'000, 1}}) {
        CAPTURE(before);
        CAPTURE(spent_us);
        InstalledStage h;
        h.data({.budget_ms = before});
        h.now += spent_us;
        h.run();
        REQUIRE(h.outbox.data.size() == 1);
        CHECK(header_of(h.outbox.data[0].bytes).budget_ms == after);
    }
}

TEST_CASE("the time in the queue and at work is added to the frame") {
    InstalledStage h;
    h.stage.units = 2;
    h.data({});
    h.now += 700;
    h.worker->run_unit(h.now);
    h.now += 40;
    h.worker->unit_done(h.now);
    h.now += 1000;  // the loop polls between two units
    h.worker->run_unit(h.now);
    h.now += 5;
    h.worker->unit_done(h.now);
    REQUIRE(h.outbox.data.size() == 1);
    const wire::Bytes& bytes = h.outbox.data[0].bytes;
    const auto frame = wire::decode_frame(header_of(bytes), bytes);
    REQUIRE(std::holds_alternative<wire::DataFrame>(frame));
    const auto& timings = std::get<wire::DataFrame>(frame).timings;
    REQUIRE(timings.size() == 1);
    CHECK(timings[0] == wire::HopTiming{700, 45});
}
