// The harnesses of the unit tests assert with doctest; here a failure is the end.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

namespace {

struct Setup {
    Setup() {
        context.setAsDefaultForAssertsOutOfTestCases();
        context.setAssertHandler([](const doctest::AssertData& assertion) {
            if (!assertion.m_failed) return;
            std::fprintf(stderr, "%s:%d: %s\n", assertion.m_file, assertion.m_line,
                         assertion.m_expr);
            std::abort();
        });
    }
    doctest::Context context;
};
Setup setup;

}  // namespace
