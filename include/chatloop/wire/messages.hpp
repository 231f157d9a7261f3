// Every message of docs/protocol.md as a plain struct, in hop order. wire/codec.hpp turns them into
// bytes and back. No msgpack here.
#pragma once

#include "chatloop/core/ids.hpp"
#include "chatloop/wire/control.hpp"
#include "chatloop/wire/frames.hpp"
#include "chatloop/wire/front.hpp"
#include "chatloop/wire/spans.hpp"

namespace chatloop::wire {

inline constexpr uint8_t kProtocolVersion = 1;

}  // namespace chatloop::wire
