// A loop whose body is written out kCount times: arrays that it indexes stay in registers, which
// the compiler's own limits do not promise.
#pragma once

namespace chatloop::kernel::lanes {

template <int kValue>
struct Index {
    constexpr operator int() const { return kValue; }
};

// body(Index<0>()) ... body(Index<kCount - 1>()); `body` must be [[gnu::always_inline]] itself.
template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(Body body) {
    if constexpr (kCount > 0) {
        unrolled<kCount - 1>(body);
        body(Index<kCount - 1>());
    }
}

}  // namespace chatloop::kernel::lanes

// The lambda of an unrolled loop over `index`.
#define CHATLOOP_BODY(index) [&](auto index) __attribute__((always_inline))
