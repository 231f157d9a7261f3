// Bytes that no peer of good will sends: nothing crashes, and little is allocated.
#include <doctest/doctest.h>

#include <cstdlib>
#include <new>
#include <random>

#include "chatloop/core/limits.hpp"
#include "examples.hpp"

namespace {

size_t largest_allocation = 0;

}  // namespace

void* operator new(size_t size) {
    largest_allocation = std::max(largest_allocation, size);
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
    std::free(memory);
}

namespace chatloop::wire::test {
namespace {

// The number of decoders that took the bytes for a message.
int feed(ByteView bytes) {
    int accepted = decode_control(bytes).ok() + decode_router(bytes).ok();
    accepted += std::holds_alternative<ClientBody>(decode_client(bytes));
    accepted += decode_sample({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, 1).ok();
    accepted += decode_header(bytes).ok();
    accepted += std::holds_alternative<DataFrame>(decode_frame(header_example(kFrameData), bytes));
    accepted +=
        std::holds_alternative<ResultFrame>(decode_result(header_example(kFrameResult), bytes));
    return accepted;
}

}  // namespace

TEST_CASE("random bytes are no message and crash nothing") {
    std::mt19937_64 random(20240607);
    int accepted = 0;
    for (int round = 0; round < 100'000; ++round) {
        Bytes bytes(random() % 96);
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
        accepted += feed(bytes);
    }
    CHECK(accepted == 0);
}

TEST_CASE("damaged messages crash nothing") {
    std::vector<Bytes> messages = {frame_example(), encode_result(result_example())};
    for (const Control& message : control_examples()) messages.push_back(encode_control(message));
    for (const ClientBody& message : client_examples()) messages.push_back(encode_client(message));
    for (const RouterBody& message : router_examples()) messages.push_back(encode_router(message));
    std::mt19937_64 random(7);
    int refused = 0;
    for (int round = 0; round < 100'000; ++round) {
        Bytes bytes = messages[random() % messages.size()];
        // Behind the header and its CRC, which would stop most damage.
        for (uint64_t damage = 1 + random() % 4; damage > 0; --damage) {
            bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
        }
        refused += feed(bytes) == 0;
    }
    CHECK(refused > 50'000);
}

TEST_CASE("announced lengths and nesting are not paid for") {
    const std::vector<Bytes> bombs = {
        {0xdd, 0xff, 0xff, 0xff, 0xff},                          // array of 2^32 - 1
        {0xdf, 0xff, 0xff, 0xff, 0xff},                          // map
        {0xdb, 0xff, 0xff, 0xff, 0xff},                          // str
        {0xc6, 0xff, 0xff, 0xff, 0xff},                          // bin
        {0xc9, 0xff, 0xff, 0xff, 0xff, 0x01},                    // ext
        {0xdd, 0x00, 0x0f, 0xff, 0xff, 0xdd, 0x00, 0x0f, 0xff},  // within each other
        Bytes(200'000, 0x91),                                    // arrays of one, nested
        Bytes(200'000, 0x81),
        Bytes(200'000, 0xdd),
    };
    for (const Bytes& bomb : bombs) {
        Bytes frame = frame_example();
        frame.insert(frame.begin() + kHeaderBytes, bomb.begin(), bomb.end());
        largest_allocation = 0;
        CHECK(feed(bomb) == 0);
        CHECK(std::holds_alternative<FrameError>(
            decode_frame(header_example(kFrameData), frame)));
        CHECK(largest_allocation < 100'000);
    }
}

TEST_CASE("messages beyond their socket's bound are refused") {
    Bytes large = {0xc6, 0x00, 0x40, 0x00, 0x00};
    large.resize(large.size() + (4u << 20));
    CHECK(feed(large) == 0);
}

}  // namespace chatloop::wire::test
