// CPU lists as taskset and the kernel write them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chatloop/core/result.hpp"

namespace chatloop {

// "0-3,6" -> 0 1 2 3 6, ascending, none twice, each below kCpusMax. kInvalidRequest.
Result<std::vector<int>> parse_cpu_list(std::string_view text);
// The other way round; `cpus` ascending.
std::string cpu_list_text(const std::vector<int>& cpus);

}  // namespace chatloop
