// Somebody else's text in an error line or a log.
#pragma once

#include <string>
#include <string_view>

namespace chatloop {

// Short, and without control characters; of a user, in UTF-8.
std::string printable(std::string text);

// The same of bytes that may be anything: what is not ASCII is shown as '?'.
std::string printable_ascii(std::string_view bytes);

}  // namespace chatloop
