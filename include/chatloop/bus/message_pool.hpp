// Buffers that go round: the bytes of a message return to their pool when it is freed, on whichever
// thread, and the next message is written into them.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "chatloop/bus/message.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

// One thread makes messages. They may outlive the pool.
class MessagePool {
public:
    // What `fill` writes into the vector that it is given.
    template <class Fill>
    Message make(Fill fill) {
        Slot* slot = free_slot();
        if (slot == nullptr) {
            std::vector<uint8_t> bytes;
            fill(bytes);
            return Message(std::move(bytes));
        }
        fill(slot->bytes);
        slot->lent.store(true, std::memory_order_relaxed);
        slot->owner = slots_;
        return Message(slot->bytes.data(), slot->bytes.size(), give_back, slot);
    }

private:
    struct Slot;
    using Slots = std::array<Slot, kPooledMessagesMax>;
    struct Slot {
        std::vector<uint8_t> bytes;
        std::shared_ptr<Slots> owner;  // while it is lent
        std::atomic<bool> lent = false;
    };

    Slot* free_slot() {
        for (Slot& slot : *slots_)
            if (!slot.lent.load(std::memory_order_acquire)) return &slot;
        return nullptr;
    }
    static void give_back(void*, void* hint) {
        auto* slot = static_cast<Slot*>(hint);
        const std::shared_ptr<Slots> owner = std::move(slot->owner);
        if (slot->bytes.capacity() > kPooledMessageBytesMax) slot->bytes = {};
        slot->lent.store(false, std::memory_order_release);
    }

    std::shared_ptr<Slots> slots_ = std::make_shared<Slots>();
};

}  // namespace chatloop
