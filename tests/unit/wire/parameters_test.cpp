// A client's parameters: defaults, ranges, and errors that name what is wrong.
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
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

TEST_CASE("at most one constraint, which is not empty") {
    for (const char* key : {"json_schema", "regex", "grammar"}) {
        CAPTURE(key);
        CHECK(accepts(key, "{}"));
        CHECK(accepts(key, std::string(kConstraintBytesMax, 'a')));
        CHECK_FALSE(accepts(key, std::string(kConstraintBytesMax + 1, 'a')));
        CHECK_FALSE(accepts(key, ""));
        CHECK_FALSE(accepts(key, 1));
        check_error(submit(3, [&](Packer& p) {
                        p.pack("prompt").pack("x").pack(key).pack("a");
                        p.pack("json_object").pack(true);
                    }),
                    ErrorCode::kInvalidRequest, "second constraint");
    }
    using Texts = std::vector<std::string>;
    CHECK(accepts("choice", Texts{"a", "b"}));
    CHECK_FALSE(accepts("choice", Texts{}));
    CHECK_FALSE(accepts("choice", Texts{"a", ""}));
    CHECK_FALSE(accepts("choice", "a"));
    CHECK_FALSE(accepts("choice", Texts(kConstraintTextsMax + 1, "a")));
    CHECK_FALSE(accepts("choice", Texts(2, std::string(kConstraintBytesMax, 'a'))));
    CHECK(accepts("json_object", true));
    const auto none = submit_with("json_object", false);
    REQUIRE(std::holds_alternative<ClientBody>(none));
    CHECK_FALSE(std::get<Submit>(std::get<ClientBody>(none)).parameters.constraint.has_value());
}

TEST_CASE("tools go with messages, and a content may be nil beside calls") {
    CHECK_FALSE(accepts("tools", "[]"));
    CHECK_FALSE(accepts("chat_template_kwargs", "{}"));
    const auto chat = [](const Fill& message) {
        return submit(2, [&](Packer& p) {
            p.pack("tools").pack("[]").pack("messages").pack_array(1);
            message(p);
        });
    };
    CHECK(std::holds_alternative<ClientBody>(chat([](Packer& p) {
        p.pack_map(3).pack("role").pack("a").pack("content").pack_nil();
        p.pack("tool_calls").pack("[{}]");
    })));
    check_error(chat([](Packer& p) {
                    p.pack_map(2).pack("role").pack("a").pack("content").pack_nil();
                }),
                ErrorCode::kInvalidRequest, "content");
    check_error(chat([](Packer& p) {
                    p.pack_map(3).pack("role").pack("a").pack("content").pack("").pack("tool").pack(
                        "x");
                }),
                ErrorCode::kInvalidRequest, "tool");
}

TEST_CASE("penalties are finite and within their usual ranges") {
    const auto accepts_all = [](const char* key, std::initializer_list<double> values) {
        return std::all_of(values.begin(), values.end(),
                           [&](double value) { return accepts(key, value); });
    };
    const auto accepts_any = [](const char* key, std::initializer_list<double> values) {
        return std::any_of(values.begin(), values.end(),
                           [&](double value) { return accepts(key, value); });
    };
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    constexpr double kInf = std::numeric_limits<double>::infinity();
    CHECK(accepts_all("repetition_penalty", {1e-30, 0.5, 1, 10}));
    CHECK_FALSE(accepts_any("repetition_penalty", {0, -1, 1e-60, 10.01, kNan, kInf, -kInf}));
    for (const char* key : {"presence_penalty", "frequency_penalty"}) {
        CAPTURE(key);
        CHECK(accepts_all(key, {-2, -0.25, 0, 2}));
        CHECK_FALSE(accepts_any(key, {-2.01, 2.01, kNan, kInf, -kInf}));
    }
    CHECK(accepts_all("priority", {-100, -1, 0, 100}));
    CHECK_FALSE(accepts_any("priority", {-101, 101, 0.5, kNan}));
    CHECK(accepts("priority", -100));
}

TEST_CASE("logit_bias is a map of ids, as numbers or digits, each once") {
    const auto bias = [](auto key, double value) {
        return accepts("logit_bias", std::map<decltype(key), double>{{key, value}});
    };
    CHECK(bias(7u, -100.0));
    CHECK(bias(UINT32_MAX, 100.0));
    CHECK(bias(std::string("49151"), 0.5));
    CHECK_FALSE(bias(7u, 100.5));
    CHECK_FALSE(bias(7u, std::numeric_limits<double>::quiet_NaN()));
    CHECK_FALSE(bias(uint64_t{UINT32_MAX} + 1, 1.0));
    CHECK_FALSE(bias(-1, 1.0));
    for (const char* key : {"", "-1", "1x", " 1", "4294967296", "00000000001"})
        CHECK_FALSE(bias(std::string(key), 1.0));
    CHECK_FALSE(accepts("logit_bias", std::vector<int>{1}));
    CHECK(accepts("logit_bias", std::map<uint32_t, int>{}));
    const auto twice = submit(2, [](Packer& p) {
        p.pack("prompt").pack("x").pack("logit_bias").pack_map(2);
        p.pack(5).pack(1.0).pack("5").pack(2.0);
    });
    check_error(twice, ErrorCode::kInvalidRequest, "logit_bias has a repeated key");

    std::map<uint32_t, float> many;
    for (uint32_t id = 0; id < kLogitBiasMax; ++id) many[id] = 1.0f;
    CHECK(accepts("logit_bias", many));
    many[kLogitBiasMax] = 1.0f;
    CHECK_FALSE(accepts("logit_bias", many));
}

TEST_CASE("choices, least tokens, deadline") {
    CHECK(accepts("n", kChoicesMax));
    CHECK_FALSE(accepts("n", 0));
    CHECK_FALSE(accepts("n", kChoicesMax + 1));
    CHECK(accepts("min_tokens", 256));  // max_tokens' default
    check_error(submit_with("min_tokens", 257), ErrorCode::kInvalidRequest, "min_tokens");
    CHECK(accepts("deadline_ms", 1));
    CHECK(accepts("deadline_ms", UINT32_MAX));
    for (const double over : {0.0, -1.0, -1e300, 0.5})
        check_error(submit_with("deadline_ms", over), ErrorCode::kInvalidRequest, "deadline_ms");
    CHECK(accepts("stop_token_ids", std::vector<uint32_t>(kStopTokenIdsMax, 1)));
    CHECK_FALSE(accepts("stop_token_ids", std::vector<uint32_t>(kStopTokenIdsMax + 1, 1)));
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
