// A router between hostile workers and hostile clients: whatever they send in whatever order, it
// asserts nothing and sends only what decodes.
#include "frames.hpp"
#include "router/router_harness.hpp"
#include "script.hpp"
#include "unit/wire/examples.hpp"

namespace chatloop::fuzz {
namespace {

const char* const kClients[] = {test::kClient, "client-2"};
const std::string kPeers[] = {test::peer_of(test::kWorker), test::peer_of(11)};

struct World : test::RouterHarness {
    void step(Script& script) {
        const uint8_t what = script.byte();
        const int who = what >> 3 & 1;
        switch (what % 8) {
            case 0: router->on_control(kPeers[who], script.block(), now); break;
            case 1: router->on_client(kClients[who], script.block(), now); break;
            case 2: {
                wire::Bytes result = script.block();
                reseal(result);
                answer_bytes(std::move(result));
                break;
            }
            case 3: router->on_link(script.byte() % 8, who == 1, now); break;
            case 4: tick(script.byte() * 20 * kMillisecondUs); break;
            case 5:
                for (int unit = 0; unit < 4 && router->has_work(); ++unit) router->run_unit(now);
                break;
            case 6: answer_next(); break;
            case 7:
                if ((what & 0xf0) == 0xf0) router->drain(now);
                else if ((what & 0x10) != 0) router->on_client_gone(kClients[who], now);
                else router->on_worker_gone(kPeers[who], now);
                break;
        }
    }

private:
    // The right RESULT of the oldest frame that got none.
    void answer_next() {
        if (answered < frames()) answer(result_of(answered++));
    }
};

Bytes control(wire::ControlBody body) {
    return wire::encode_control({test::kWorker, 1, std::move(body)});
}

// A worker comes, its route comes up as generation 1.
ScriptWriter brought_up() {
    const wire::Hello hello =
        test::hello_of(test::cluster_config(1),
                       {test::kWorker, "worker-1", wire::kRoleStage | wire::kRoleSampler, 0, 1,
                        {4, 16u << 20, 4, 16}});
    ScriptWriter script;
    script.byte(0).block(control(hello));
    const wire::WorkerHeartbeat ready{wire::WorkerState::kReady, 0, 0, 0, {}, {}};
    script.byte(0).block(control(ready));
    script.byte(4).byte(10).byte(3 | 8).byte(1).byte(0).block(control(wire::Ready{1}));
    return script;
}

}  // namespace

std::vector<Bytes> seeds() {
    std::vector<Bytes> all;
    for (const wire::ClientBody& message : wire::test::client_examples()) {
        ScriptWriter script = brought_up();
        script.byte(1).block(wire::encode_client(message)).byte(5).byte(6).byte(6).byte(4).byte(9);
        all.push_back(script.bytes);
    }
    ScriptWriter served = brought_up();
    served.byte(1).block(wire::encode_client(wire::Submit{"a", World::ask(5, 4)})).byte(5);
    served.byte(1 | 8).block(wire::encode_client(wire::Submit{"b", World::ask(90, 2)})).byte(5);
    for (int i = 0; i < 6; ++i) served.byte(6);
    all.push_back(served.bytes);
    wire::Parameters choices = World::ask(70, 5);
    choices.n = 3;
    choices.repetition_penalty = 1.5f;
    choices.min_tokens = 2;
    ScriptWriter several = brought_up();
    several.byte(1).block(wire::encode_client(wire::Submit{"a", choices})).byte(5);
    for (int i = 0; i < 6; ++i) several.byte(6);
    wire::Resume resume{"a", 1, choices, {{1, 2}, {{3}, {}, {4, 5}}, 9, "000000000000002a"}};
    several.byte(1).block(wire::encode_client(resume)).byte(5).byte(6).byte(6).byte(6);
    several.byte(1).block(wire::encode_client(wire::Cancel{"a"})).byte(6);
    all.push_back(several.bytes);
    for (const wire::Control& message : wire::test::control_examples()) {
        ScriptWriter script = served;
        wire::Control from_worker = message;
        from_worker.sender = test::kWorker;
        script.byte(0).block(wire::encode_control(from_worker)).byte(4).byte(10);
        all.push_back(script.bytes);
    }
    wire::ResultFrame result = wire::test::result_example();
    result.header = {wire::kFrameResult, test::kRouter, 1, 1, 2, test::kRouter, 0};
    served.byte(1).block(wire::encode_client(wire::Submit{"c", World::ask(3, 9)})).byte(5);
    served.byte(2).block(wire::encode_result(result)).byte(0xf7).byte(4).byte(250);
    all.push_back(served.bytes);
    return all;
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop::fuzz;
    World world;
    Script script({data, size});
    for (int step = 0; step < kStepsMax && !script.done(); ++step) world.step(script);
    return 0;
}
