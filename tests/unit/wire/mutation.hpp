// Every message with one thing wrong in it: each node of its msgpack tree in turn takes another
// type, a number that is out of any range, or another length.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "chatloop/wire/codec.hpp"

namespace chatloop::wire::test {

// The mutations, as "<path> <change>", after which `accepts` is still true of the encoding.
std::set<std::string> accepted_mutations(ByteView encoded,
                                         const std::function<bool(ByteView)>& accepts);

}  // namespace chatloop::wire::test
