// An Outbox that keeps what an actor sent, decoded. Links come up when the test says so.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/bus/outbox.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::test {

class FakeOutbox final : public Outbox {
public:
    struct SentFrame {
        LinkId link = 0;
        wire::Bytes bytes;
    };

    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override {
        Result<wire::Control> message = wire::decode_control(bytes);
        REQUIRE(message.ok());  // an actor never sends what its peer must refuse
        control.emplace_back(peer, std::move(*message));
    }
    void send_client(const std::string& peer, std::vector<uint8_t> bytes) override {
        Result<wire::RouterBody> message = wire::decode_router(bytes);
        REQUIRE(message.ok());
        client.emplace_back(peer, std::move(*message));
    }
    void open_link(LinkId id, const std::string& endpoint) override {
        REQUIRE(!ever_opened.contains(id));  // link ids are never used twice
        ever_opened[id] = endpoint;
        open[id] = endpoint;
    }
    void close_link(LinkId id) override { REQUIRE(open.erase(id) == 1); }
    void send_data(LinkId id, Message frame) override {
        REQUIRE(open.contains(id));
        data.push_back({id, wire::Bytes(frame.bytes().begin(), frame.bytes().end())});
    }
    size_t backlog(LinkId id) const override {
        const auto found = waiting.find(id);
        return found == waiting.end() ? 0 : found->second;
    }

    // All control messages of one type, in order.
    template <class T>
    std::vector<T> controls(const std::string& peer = {}) const {
        std::vector<T> found;
        for (const auto& [to, message] : control)
            if (const T* body = std::get_if<T>(&message.body); body && (peer.empty() || to == peer))
                found.push_back(*body);
        return found;
    }
    // All messages of one type to one client, in order.
    template <class T>
    std::vector<T> heard(const std::string& peer) const {
        std::vector<T> found;
        for (const auto& [to, message] : client)
            if (const T* body = std::get_if<T>(&message); body && to == peer)
                found.push_back(*body);
        return found;
    }
    LinkId link_to(const std::string& endpoint) const {
        for (const auto& [id, to] : open)
            if (to == endpoint) return id;
        return 0;
    }

    std::vector<std::pair<std::string, wire::Control>> control;
    std::vector<std::pair<std::string, wire::RouterBody>> client;
    std::vector<SentFrame> data;
    std::map<LinkId, std::string> open;
    std::map<LinkId, std::string> ever_opened;
    std::map<LinkId, size_t> waiting;  // backlog, as the test sets it
};

}  // namespace chatloop::test
