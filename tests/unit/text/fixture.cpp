#include "fixture.hpp"

#include <cstdlib>
#include <filesystem>

namespace chatloop::testing {

std::unique_ptr<TextEngine> engine_with_template(const std::string& chat_template) {
    std::string folder = (std::filesystem::temp_directory_path() / "chatloop_text_XXXXXX").string();
    REQUIRE(mkdtemp(folder.data()) != nullptr);
    std::filesystem::copy_file(kData + "/tiny_tokenizer/tokenizer.json",
                               folder + "/tokenizer.json");
    const nlohmann::json config = {{"chat_template", chat_template}, {"eos_token", "<|im_end|>"}};
    std::ofstream(folder + "/tokenizer_config.json") << config;
    Result<std::unique_ptr<TextEngine>> engine = load_text_engine(folder);
    std::filesystem::remove_all(folder);
    if (!engine) FAIL(engine.error().message);
    return std::move(*engine);
}

}  // namespace chatloop::testing
