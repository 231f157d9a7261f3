// The tiny tokenizer of tests/data, and variants of it with another chat template.
#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "chatloop/text/text.hpp"

namespace chatloop::testing {

inline const std::string kData = CL_TEST_DATA;
constexpr uint32_t kImStart = 1;  // ids of tests/data/make_tiny_tokenizer.py
constexpr uint32_t kImEnd = 2;

inline nlohmann::json read_json(const std::string& path) {
    std::ifstream file(path);
    REQUIRE(file.good());
    return nlohmann::json::parse(file);
}

inline std::unique_ptr<TextEngine> load(const std::string& folder) {
    Result<std::unique_ptr<TextEngine>> engine = load_text_engine(folder);
    if (!engine) FAIL(engine.error().message);
    return std::move(*engine);
}

inline std::unique_ptr<TextEngine> tiny_engine() { return load(kData + "/tiny_tokenizer"); }

template <class T>
T good(Result<T> result) {
    if (!result) FAIL(result.error().message);
    return std::move(*result);
}

// The tiny tokenizer in a folder of its own, with this chat template.
std::unique_ptr<TextEngine> engine_with_template(const std::string& chat_template);

}  // namespace chatloop::testing
