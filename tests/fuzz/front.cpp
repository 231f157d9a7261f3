// The client front, both ways: any bytes decode to a message or an error, and a message encodes to
// what decodes to the same.
#include "chatloop/core/assert.hpp"
#include "target.hpp"
#include "unit/wire/examples.hpp"

namespace chatloop::fuzz {

std::vector<Bytes> seeds() {
    std::vector<Bytes> all;
    for (const auto& message : wire::test::client_examples())
        all.push_back(wire::encode_client(message));
    for (const auto& message : wire::test::router_examples())
        all.push_back(wire::encode_router(message));
    return all;
}

namespace {

void check_client(wire::ByteView bytes) {
    const auto decoded = wire::decode_client(bytes);
    const auto* message = std::get_if<wire::ClientBody>(&decoded);
    if (message == nullptr) {
        CL_ASSERT(!std::get<wire::ClientError>(decoded).error.message.empty());
        return;
    }
    const wire::Bytes again = wire::encode_client(*message);
    const auto twice = wire::decode_client(again);
    CL_ASSERT(std::holds_alternative<wire::ClientBody>(twice));
    CL_ASSERT(wire::encode_client(std::get<wire::ClientBody>(twice)) == again);
}

void check_router(wire::ByteView bytes) {
    const auto message = wire::decode_router(bytes);
    if (!message) return;
    const wire::Bytes again = wire::encode_router(*message);
    const auto twice = wire::decode_router(again);
    CL_ASSERT(twice.ok());
    CL_ASSERT(wire::encode_router(*twice) == again);
}

}  // namespace
}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    chatloop::fuzz::check_client({data, size});
    chatloop::fuzz::check_router({data, size});
    return 0;
}
