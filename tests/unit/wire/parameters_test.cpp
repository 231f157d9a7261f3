// A client's parameters: defaults, ranges, and errors that name what is wrong.
#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <msgpack.hpp>

#include "chatloop/core/limits.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::wire::test {
namespace {

using Packer = msgpack::packer<msgpack::sbuffer>;
using Fill = std::function<void(Packer&)>;

// SUBMIT "r" with `pairs` entries that `fill` writes.
std::variant<ClientBody, ClientError> submit(uint32_t pairs, const Fill& fill) {
    msgpack::sbuffer buffer;
    Packer packer(buffer);
    packer.pack_array(4);
    packer.pack(1).pack(1).pack("r");
    packer.pack_map(pairs);
    fill(packer);
    return decode_client({reinterpret_cast<const uint8_t*>(buffer.data()), buffer.size()});
}

// A prompt and one more parameter.
template <class T>
std::variant<ClientBody, ClientError> submit_with(const char* key, const T& value) {
    return submit(2, [&](Packer& p) { p.pack("prompt").pack("x").pack(key).pack(value); });
}

template <class T>
bool accepts(const char* key, const T& value) {
    return std::holds_alternative<ClientBody>(submit_with(key, value));
}

void check_error(const std::variant<ClientBody, ClientError>& decoded, ErrorCode code,
                 const std::string& named) {
    REQUIRE(std::holds_alternative<ClientError>(decoded));
    const ClientError& failure = std::get<ClientError>(decoded);
    CHECK(failure.request_id == "r");
    CHECK(failure.error.code == code);
    CAPTURE(failure.error.message);
    CHECK(failure.error.message.find(named) != std::string::npos);
}

}  // namespace

TEST_CASE("absent parameters have the defaults of the page") {
    const auto decoded = submit(1, [](Packer& p) { p.pack("prompt").pack("x"); });
    REQUIRE(std::holds_alternative<ClientBody>(decoded));
    const auto& request = std::get<Submit>(std::get<ClientBody>(decoded));
    Parameters expected;
    expected.prompt = std::string("x");
    CHECK(request.parameters == expected);
    CHECK(request.parameters.max_tokens == 256);
}

TEST_CASE("exactly one kind of prompt") {
    check_error(submit(0, [](Packer&) {}), ErrorCode::kInvalidRequest, "exactly one");
    check_error(submit_with("token_ids", std::vector<int>{1}), ErrorCode::kInvalidRequest,
                "exactly one");
}

TEST_CASE("numbers come as integer or float") {
    CHECK(accepts("max_tokens", 5.0));
    CHECK_FALSE(accepts("max_tokens", 5.5));
    CHECK_FALSE(accepts("max_tokens", -1));
    CHECK_FALSE(accepts("max_tokens", 4294967296.0));
    CHECK(accepts("temperature", 1));
    CHECK(accepts("temperature", 100.0f));
    CHECK_FALSE(accepts("temperature", 100.5));
    CHECK_FALSE(accepts("temperature", -0.5));
    CHECK_FALSE(accepts("temperature", std::numeric_limits<double>::quiet_NaN()));
    CHECK_FALSE(accepts("temperature", std::numeric_limits<double>::infinity()));
    CHECK(accepts("top_p", 1));
    CHECK_FALSE(accepts("top_p", 0));
    CHECK_FALSE(accepts("top_p", 1e-60));  // 0 in f32
    CHECK(accepts("min_p", 0));
    CHECK_FALSE(accepts("min_p", 1.5));
    CHECK(accepts("seed", UINT64_MAX));
    CHECK_FALSE(accepts("seed", 18446744073709551616.0));
    CHECK(accepts("logprobs", 32));
    CHECK_FALSE(accepts("logprobs", 33));
    CHECK(accepts("prompt_logprobs", msgpack::type::nil_t()));
    CHECK_FALSE(accepts("echo", 1));
}

TEST_CASE("stop strings are one or several, each with something in it") {
    CHECK(accepts("stop", "END"));
    CHECK(accepts("stop", std::vector<std::string>(16, "a")));
    CHECK_FALSE(accepts("stop", std::vector<std::string>(17, "a")));
    CHECK_FALSE(accepts("stop", std::vector<std::string>{}));
    CHECK_FALSE(accepts("stop", ""));
    CHECK(accepts("stop", std::string(256, 'a')));
    CHECK_FALSE(accepts("stop", std::string(257, 'a')));
}

TEST_CASE("an error names its field") {
    check_error(submit_with("temprature", 1), ErrorCode::kInvalidRequest, "'temprature'");
    check_error(submit_with("prompt", "twice"), ErrorCode::kInvalidRequest, "'prompt'");
    check_error(submit_with("bad\xff\nkey", 1), ErrorCode::kInvalidRequest, "'bad??key'");
    check_error(submit_with("top_p", 2), ErrorCode::kInvalidRequest, "top_p");
    check_error(submit_with("stop", "\xff"), ErrorCode::kNotUtf8, "stop");
    const auto prompt = [](const std::string& text) {
        return submit(1, [&](Packer& p) { p.pack("prompt").pack(text); });
    };
    check_error(prompt("\xed\xa0\x80"), ErrorCode::kNotUtf8, "prompt");  // a surrogate
    check_error(prompt("\xc0\xaf"), ErrorCode::kNotUtf8, "prompt");      // not the shortest form
    check_error(prompt("\xf4\x90\x80\x80"), ErrorCode::kNotUtf8, "prompt");  // beyond U+10FFFF
    const std::string long_text(kPromptBytesMax + 1, 'a');  // the router says what is too long
    CHECK(std::holds_alternative<ClientBody>(prompt(long_text)));
    check_error(submit(1,
                       [](Packer& p) {
                           p.pack("messages").pack_array(1).pack_map(2);
                           p.pack("role").pack("user").pack("content").pack("\xff");
                       }),
                ErrorCode::kNotUtf8, "content");
}

TEST_CASE("a message without a readable request id answers to none") {
    const Bytes unknown = {0x93, 0x01, 0x63, 0xa1, 'r'};
    const auto decoded = decode_client(unknown);
    REQUIRE(std::holds_alternative<ClientError>(decoded));
    CHECK_FALSE(std::get<ClientError>(decoded).request_id.has_value());
    CHECK(std::get<ClientError>(decoded).error.code == ErrorCode::kMalformed);
}

}  // namespace chatloop::wire::test
