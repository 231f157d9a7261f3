// A stage worker that hosts the sampler, over the hash model, between hostile routers and hostile
// upstream peers: it asserts nothing, sends only what decodes, and gets done with what it took.
#include "chatloop/sampler/sampler.hpp"
#include "chatloop/stage/stage_worker.hpp"
#include "frames.hpp"
#include "hash_model.hpp"
#include "script.hpp"
#include "unit/wire/examples.hpp"
#include "worker/helpers.hpp"

namespace chatloop::fuzz {
namespace {

constexpr wire::Share kShare{4, 16u << 20, 4, 8};
const char* const kRouters[] = {"router-a", "router-b"};

struct Node {
    Node() : stage({kShare, 2, sim::kVocab, 4}), sampler(kernels()), compute(0, true, 16) {
        stage.set_compute(compute);
        sampler.set_compute(head);
        WorkerConfig config;
        config.incarnation = test::kSelf;
        config.routers.assign(std::begin(kRouters), std::end(kRouters));
        config.hello.name = "worker";
        config.hello.endpoint = "here";
        config.hello.roles = wire::kRoleStage | wire::kRoleSampler;
        config.hello.layer_end = config.hello.layers = 1;
        config.hello.width = sim::kWidth;
        config.hello.vocab = sim::kVocab;
        config.hello.share = kShare;
        worker = std::make_unique<Worker>(config, outbox, &stage, &sampler);
    }
    static const kernel::Kernels& kernels() {
        return *kernel::find_kernels("reference", kernel::cpu_features());
    }

    void step(Script& script) {
        const uint8_t what = script.byte();
        switch (what % 8) {
            case 0:
            case 1: worker->on_control(kRouters[what % 2], script.block(), now); break;
            case 2: {
                wire::Bytes frame = script.block();
                reseal(frame);
                worker->on_data(Message(std::move(frame)), now);
                break;
            }
            case 3: worker->on_link(script.byte() % 8, (what & 8) != 0, now); break;
            case 4: now += script.byte() * 20 * kMillisecondUs; break;
            case 5: for (int unit = 0; unit < 4 && worker->has_work(); ++unit) run_unit(); break;
            case 6:
                if (!ready) worker->set_ready(now);
                ready = true;
                break;
            case 7: if ((what & 8) != 0) worker->drain(now); break;
        }
        if (!worker->finished()) worker->on_tick(now);
    }
    void run_unit() {
        worker->run_unit(now);
        worker->unit_done(now);
    }

    TimeUs now = kSecondUs;
    bool ready = false;
    test::FakeOutbox outbox;
    StageWorker stage;
    Sampler sampler;
    sim::HashStage compute;
    sim::HashHead head;
    std::unique_ptr<Worker> worker;
};

Bytes control(Incarnation from, wire::ControlBody body) {
    return wire::encode_control({from, 1, std::move(body)});
}

// Two prompt rows of slot 1, the last of which wants a token.
Bytes prompt_frame(FrameNumber number) {
    wire::Item item;
    item.slot = 1;
    item.admission = 3;
    item.position = number == 1 ? 0 : 2;
    item.rows = number == 1 ? 2 : 1;
    item.flags = number == 1 ? wire::kItemFirst : 0;
    item.table_index = number == 1 ? 0 : 1;
    if (number == 1) item.blocks = {5};
    item.outputs = {item.rows - 1};
    item.sample = wire::encode_sample({});
    size_t payload_at = 0;
    Bytes frame = wire::encode_frame({wire::kFrameData, test::kRouterA, 1, number, 0, test::kSelf,
                                      0},
                                     {}, std::span(&item, 1), wire::DType::kIds, item.rows, 1,
                                     &payload_at);
    frame[payload_at] = 7;
    wire::seal_frame(frame);
    return frame;
}

}  // namespace

std::vector<Bytes> seeds() {
    const wire::Route route{1, 0, 4, 8,
                            {{0, wire::kRoleStage, "", test::kSelf, true},
                             {1, wire::kRoleSampler, "result", test::kRouterA, false}}};
    ScriptWriter served;
    served.byte(6).byte(4).byte(1);
    const wire::Welcome welcome{test::kSelf, "r", 200, 4, "result"};
    served.byte(0).block(control(test::kRouterA, welcome));
    served.byte(0).block(control(test::kRouterA, route)).byte(3 | 8).byte(1);
    served.byte(2).block(prompt_frame(1)).byte(5).byte(5).byte(2).block(prompt_frame(2)).byte(5);
    ScriptWriter fenced = served;
    fenced.byte(2).block(prompt_frame(3)).byte(0).block(control(test::kRouterA, wire::Fence{1}));
    fenced.byte(5).byte(4).byte(200).byte(7 | 8).byte(4).byte(200);
    std::vector<Bytes> all = {served.bytes, fenced.bytes};
    for (const wire::Control& message : wire::test::control_examples()) {
        ScriptWriter script = served;
        wire::Control from_router = message;
        from_router.sender = test::kRouterA;
        script.byte(0).block(wire::encode_control(from_router)).byte(5);
        all.push_back(script.bytes);
    }
    return all;
}

}  // namespace chatloop::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace chatloop::fuzz;
    Node node;
    Script script({data, size});
    for (int step = 0; step < kStepsMax && !script.done(); ++step) node.step(script);
    for (int unit = 0; node.worker->has_work(); ++unit) {
        CL_ASSERT(unit < 100'000);
        node.run_unit();
    }
    return 0;
}
