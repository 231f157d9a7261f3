// Plain text to ids, ids to text at once and in a stream, and no thread for any of it.
#include <algorithm>
#include <filesystem>

#include "fixture.hpp"

namespace chatloop::testing {
namespace {

using Ids = std::vector<uint32_t>;

std::ptrdiff_t thread_count() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
}

std::string streamed(const TextEngine& engine, const Ids& ids, bool skip_special) {
    const std::unique_ptr<TextStream> stream = engine.stream(skip_special);
    std::string text;
    for (uint32_t id : ids) text += good(stream->push(id));
    return text + stream->finish();
}

TEST_CASE("a special token in plain text stays text") {
    const auto engine = tiny_engine();
    const Ids ids = good(engine->encode_plain("a<|im_end|>b"));
    CHECK(ids.size() > 3);
    CHECK(std::count(ids.begin(), ids.end(), kImEnd) == 0);
    CHECK(good(engine->decode(ids, true)) == "a<|im_end|>b");
}

TEST_CASE("skip_special leaves out special tokens only") {
    const auto engine = tiny_engine();
    Ids ids = good(engine->encode_plain("the sea"));
    ids.push_back(kImEnd);
    CHECK(good(engine->decode(ids, true)) == "the sea");
    CHECK(good(engine->decode(ids, false)) == "the sea<|im_end|>");
    CHECK(streamed(*engine, ids, true) == "the sea");
    CHECK(streamed(*engine, ids, false) == "the sea<|im_end|>");
}

TEST_CASE("a stream gives whole characters, and in all the text") {
    const auto engine = tiny_engine();
    const std::string text = "日本語 👩‍👧 the sea, naïve \xEF\xBF\xBD end 日";
    const Ids ids = good(engine->encode_plain(text));
    CHECK(streamed(*engine, ids, true) == text);

    const Ids three_bytes = good(engine->encode_plain("日"));
    REQUIRE(three_bytes.size() == 3);
    const auto stream = engine->stream(true);
    CHECK(good(stream->push(three_bytes[0])).empty());
    CHECK(good(stream->push(three_bytes[1])).empty());
    CHECK(good(stream->push(three_bytes[2])) == "日");
    CHECK(stream->finish().empty());
}

TEST_CASE("incomplete bytes come out as U+FFFD at the end") {
    const auto engine = tiny_engine();
    const Ids bytes = good(engine->encode_plain("日"));
    const auto stream = engine->stream(true);
    CHECK(good(stream->push(bytes[0])).empty());
    CHECK(stream->finish() == "\xEF\xBF\xBD");
    CHECK(stream->finish().empty());
}

TEST_CASE("bytes that never become text are bounded and equal the whole decoding") {
    const auto engine = tiny_engine();
    const uint32_t lead = good(engine->encode_plain("日"))[0];
    const uint32_t tail = good(engine->encode_plain("日"))[1];
    Ids ids(1000, lead);
    ids.insert(ids.end(), 1000, tail);
    for (uint32_t id : good(engine->encode_plain(" the 日 sea"))) ids.push_back(id);
    CHECK(streamed(*engine, ids, true) == good(engine->decode(ids, true)));
}

TEST_CASE("an id without a token is no text") {
    const auto engine = tiny_engine();
    const uint32_t beyond = static_cast<uint32_t>(engine->vocab_size());
    CHECK(good(engine->decode(Ids{beyond, 4000000000u}, false)).empty());
    CHECK(streamed(*engine, {beyond, 4000000000u}, false).empty());
}

TEST_CASE("bytes that are not UTF-8 are refused") {
    const auto engine = tiny_engine();
    for (const std::string text : {"\xFF", "a\xE6\x97", "\xED\xA0\x80", "\xC0\x80"}) {
        const auto plain = engine->encode_plain(text);
        REQUIRE_FALSE(plain.ok());
        CHECK(plain.error().code == ErrorCode::kNotUtf8);
        const auto chat = engine->encode_chat({{"user", text}}, true);
        REQUIRE_FALSE(chat.ok());
        CHECK(chat.error().code == ErrorCode::kNotUtf8);
    }
    CHECK(good(engine->encode_plain("")).empty());
}

TEST_CASE("a stream outlives its engine") {
    auto engine = tiny_engine();
    const Ids ids = good(engine->encode_plain("the sea"));
    const auto stream = engine->stream(true);
    engine.reset();
    std::string text;
    for (uint32_t id : ids) text += good(stream->push(id));
    CHECK(text + stream->finish() == "the sea");
}

TEST_CASE("no call starts a thread") {
    const std::ptrdiff_t before = thread_count();
    const auto engine = tiny_engine();
    std::string text;
    for (int i = 0; i < 2000; ++i) text += "the sea is the water that the rivers reach ";
    const Ids ids = good(engine->encode_plain(text));
    CHECK(good(engine->encode_chat({{"user", text + "<|im_end|>"}}, true)).size() > ids.size());
    CHECK(streamed(*engine, ids, true) == text);
    CHECK(thread_count() == before);
}

}  // namespace
}  // namespace chatloop::testing
