// One message as a block of owned bytes, movable and never copied by accident. What a socket
// received stays in the socket library's own memory, and what is sent is handed over: the free
// function and its hint say how the bytes end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace chatloop {

class Message {
public:
    // Called once with the bytes and the hint; may run on the I/O thread.
    using Free = void (*)(void* data, void* hint);

    Message() = default;
    Message(uint8_t* data, size_t size, Free free, void* hint)
        : data_(data), size_(size), free_(free), hint_(hint) {}
    explicit Message(std::vector<uint8_t> bytes) {
        auto* owner = new std::vector<uint8_t>(std::move(bytes));
        data_ = owner->data();
        size_ = owner->size();
        hint_ = owner;
        free_ = [](void*, void* hint) { delete static_cast<std::vector<uint8_t>*>(hint); };
    }
    Message(const Message&) = delete;
    Message& operator=(const Message&) = delete;
    Message(Message&& other) noexcept { swap(other); }
    Message& operator=(Message&& other) noexcept {
        Message taken(std::move(other));
        swap(taken);
        return *this;
    }
    ~Message() {
        if (free_ != nullptr) free_(data_, hint_);
    }

    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    std::span<const uint8_t> bytes() const { return {data_, size_}; }

    // Gives the bytes away: whoever takes them calls free(data, hint).
    struct Released {
        uint8_t* data;
        size_t size;
        Free free;
        void* hint;
    };
    Released release() {
        const Released released{data_, size_, free_, hint_};
        data_ = nullptr;
        size_ = 0;
        free_ = nullptr;
        hint_ = nullptr;
        return released;
    }

private:
    void swap(Message& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(free_, other.free_);
        std::swap(hint_, other.hint_);
    }

    uint8_t* data_ = nullptr;
    size_t size_ = 0;
    Free free_ = nullptr;
    void* hint_ = nullptr;
};

}  // namespace chatloop
