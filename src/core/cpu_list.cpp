#include "chatloop/core/cpu_list.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>

#include "chatloop/core/limits.hpp"

namespace chatloop {

namespace {

std::optional<int> parse_cpu(std::string_view text) {
    int cpu = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cpu);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    if (cpu < 0 || cpu >= kCpusMax) return std::nullopt;
    return cpu;
}

}  // namespace

Result<std::vector<int>> parse_cpu_list(std::string_view text) {
    const Error error{ErrorCode::kInvalidRequest,
                      std::string(text.substr(0, kNameBytesMax)) +
                          " is no list of CPUs such as 0-3,6"};
    std::vector<int> cpus;
    for (size_t at = 0; at <= text.size();) {
        const size_t comma = std::min(text.find(',', at), text.size());
        const std::string_view part = text.substr(at, comma - at);
        const size_t dash = std::min(part.find('-'), part.size());
        const std::optional<int> first = parse_cpu(part.substr(0, dash));
        const std::optional<int> last =
            dash == part.size() ? first : parse_cpu(part.substr(dash + 1));
        if (!first || !last || *last < *first) return error;
        for (int cpu = *first; cpu <= *last; ++cpu) cpus.push_back(cpu);
        if (cpus.size() > static_cast<size_t>(2 * kCpusMax)) return error;
        at = comma + 1;
    }
    std::sort(cpus.begin(), cpus.end());
    cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
    return cpus;
}

std::string cpu_list_text(const std::vector<int>& cpus) {
    std::string text;
    for (size_t first = 0; first < cpus.size();) {
        size_t last = first;
        while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
        if (!text.empty()) text += ',';
        text += std::to_string(cpus[first]);
        if (last > first) text.append("-").append(std::to_string(cpus[last]));
        first = last + 1;
    }
    return text;
}

}  // namespace chatloop
