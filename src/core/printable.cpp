#include "printable.hpp"

#include <algorithm>

namespace chatloop {

std::string printable(std::string text) {
    constexpr size_t kShownMax = 64;
    if (text.size() > kShownMax) text = text.substr(0, kShownMax) + "...";
    std::replace_if(
        text.begin(), text.end(),
        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
    return text;
}

}  // namespace chatloop
