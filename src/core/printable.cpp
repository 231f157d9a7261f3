#include "chatloop/core/printable.hpp"

#include <algorithm>

namespace chatloop {

namespace {

constexpr size_t kShownMax = 64;

}  // namespace

std::string printable(std::string text) {
    if (text.size() > kShownMax) text = text.substr(0, kShownMax) + "...";
    std::replace_if(
        text.begin(), text.end(),
        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
    return text;
}

std::string printable_ascii(std::string_view bytes) {
    std::string shown(bytes.substr(0, kShownMax));
    std::replace_if(
        shown.begin(), shown.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
    return shown;
}

}  // namespace chatloop
