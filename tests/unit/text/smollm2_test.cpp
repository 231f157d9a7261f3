// The real tokenizer against llama.cpp's ids, where CHATLOOP_TEST_MODEL names a model directory
// of SmolLM2.
#include <cstdlib>

#include "fixture.hpp"

namespace chatloop::testing {
namespace {

using Ids = std::vector<uint32_t>;

TEST_CASE("SmolLM2: the ids of the reference"
          * doctest::skip(std::getenv("CHATLOOP_TEST_MODEL") == nullptr)) {
    const auto engine = load(std::string(std::getenv("CHATLOOP_TEST_MODEL")) + "/tokenizer");
    const nlohmann::json reference = read_json(kData + "/smollm2_reference.json");
    for (const nlohmann::json& row : reference["tokenize"]) {
        const std::string text = row["text"];
        CAPTURE(text);
        CHECK(good(engine->encode_plain(text)) == row["ids"].get<Ids>());
        CHECK(good(engine->decode(row["ids"].get<Ids>(), false)) == text);
    }

    const std::string before = "<|im_start|>user\n";
    const std::string after = "<|im_end|>\n<|im_start|>assistant\n";
    int chats = 0;
    for (const nlohmann::json& generation : reference["generations"]) {
        if (generation["kind"] != "chat") continue;
        ++chats;
        const std::string prompt = generation["prompt"];
        const size_t start = prompt.find(before) + before.size();
        const std::string user = prompt.substr(start, prompt.size() - after.size() - start);
        CAPTURE(user);
        CHECK(good(engine->render_chat({{"user", user}}, true)) == prompt);
        CHECK(good(engine->encode_chat({{"user", user}}, true)) ==
              generation["prompt_ids"].get<Ids>());
    }
    CHECK(chats > 0);
}

}  // namespace
}  // namespace chatloop::testing
