// Control messages: any bytes decode to a message or an error, and a message encodes to what
// decodes to the same.
#include "chatloop/core/assert.hpp"
#include "target.hpp"
#include "unit/wire/examples.hpp"

namespace chatloop::fuzz {

std::vector<Bytes> seeds() {
    std::vector<Bytes> all;
    for (const wire::Control& message : wire::test::control_examples())
        all.push_back(wire::encode_control(message));
    return all;
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop;
    const auto message = wire::decode_control({data, size});
    if (!message) return 0;
    const wire::Bytes again = wire::encode_control(*message);
    const auto twice = wire::decode_control(again);
    CL_ASSERT(twice.ok());
    CL_ASSERT(wire::encode_control(*twice) == again);
    return 0;
}
