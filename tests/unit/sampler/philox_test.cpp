// Random123's published known answers for philox4x32-10 (kat_vectors): the generator that the
// installed headers give is the one that docs/numerics.md names.
#include <Random123/philox.h>
#include <doctest/doctest.h>

#include "chatloop/sampler/sampling.hpp"

using namespace chatloop;

TEST_CASE("Philox4x32-10 gives Random123's known answers") {
    using Philox = r123::Philox4x32_R<10>;
    struct Vector {
        Philox::ctr_type counter;
        Philox::key_type key;
        Philox::ctr_type answer;
    };
    const Vector vectors[] = {
        {{{0, 0, 0, 0}}, {{0, 0}}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
         {{0xffffffff, 0xffffffff}},
         {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
         {{0xa4093822, 0x299f31d0}},
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };
    for (const Vector& vector : vectors) {
        CHECK(Philox()(vector.counter, vector.key) == vector.answer);
    }
}

TEST_CASE("the draw's key is the seed, low word first, its counter token and choice") {
    using Philox = r123::Philox4x32_R<10>;
    CHECK(draw_u24(0, 0, 0) == 0x6627e8);
    const Philox::ctr_type out = Philox()({{5, 3, 0, 0}}, {{0x89abcdef, 0x01234567}});
    CHECK(draw_u24(0x0123456789abcdef, 3, 5) == out[0] >> 8);
}
