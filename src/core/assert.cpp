#include "chatloop/core/assert.hpp"

#include <cstdio>
#include <cstdlib>

namespace chatloop {

void assert_failed(const char* expression, const char* file, int line) {
    std::fprintf(stderr, "chatloop: bug: %s does not hold (%s:%d)\n", expression, file, line);
    std::abort();
}

}  // namespace chatloop
