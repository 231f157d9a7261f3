// Text of a user in an error line.
#pragma once

#include <string>

namespace chatloop {

// Short, and without control characters.
std::string printable(std::string text);

}  // namespace chatloop
