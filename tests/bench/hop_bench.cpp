// One hop of the bus without the bus: two processes, PUSH and PULL each way, one frame on its way.
//   hop_bench [--json] [--seconds 1.5] [--bytes 2400] [--pin]
// One-way times over ipc and tcp, with idle cores and with a spinning process on each core (of the
// ordinary class, SCHED_BATCH, nice 5); a receiver that blocks against one that polls all the time.
// --pin: each of the two on a CPU of its own.
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace {

constexpr int32_t kSamplesMax = 1 << 18, kWarmHops = 10, kHopsMin = 100;

enum class Load { kIdle, kOther, kBatch, kNice };

struct Case {
    const char* transport;
    Load load;
    bool spin;
};

struct Options {
    bool as_json = false;
    double seconds = 1.5;
    size_t bytes = 2400;
    bool pin = false;
};

// What a frame starts with; the rest is ballast.
struct Stamp {
    int64_t sent_ns;
    uint64_t hops;
    bool last;
};

struct Shared {
    char endpoints[2][256];
    std::atomic<int32_t> bound, connected;
    int32_t counts[2];
    int32_t times_ns[2][kSamplesMax];
};

[[noreturn]] void fail(const std::string& text) {
    std::fprintf(stderr, "hop_bench: %s\n", text.c_str());
    std::exit(70);
}

void check(bool good, const char* what) {
    if (!good) fail(std::string(what) + ": " + zmq_strerror(zmq_errno()));
}

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

const char* load_name(Load load) {
    switch (load) {
        case Load::kIdle: return "idle";
        case Load::kOther: return "busy, ordinary";
        case Load::kBatch: return "busy, SCHED_BATCH";
        case Load::kNice: return "busy, nice 5";
    }
    return "";
}

void pin_to(int32_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

std::vector<int32_t> allowed_cpus() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof(set), &set);
    std::vector<int32_t> cpus;
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
    return cpus;
}

// fork, and the child ends with its parent.
template <typename Work>
pid_t start(Work work) {
    const pid_t pid = fork();
    if (pid < 0) fail("fork");
    if (pid > 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    work();
    _exit(0);
}

void spin_for_ever(int32_t cpu, Load load) {
    pin_to(cpu);
    const sched_param none = {};
    if (load == Load::kBatch && sched_setscheduler(0, SCHED_BATCH, &none) != 0) fail("SCHED_BATCH");
    if (load == Load::kNice && setpriority(PRIO_PROCESS, 0, 5) != 0) fail("nice");
    while (true) asm volatile("");
}

// Member `side` of the ring: takes what the other sent, notes how long it took, sends it back.
// Side 0 starts, and says when the last frame goes round.
void ring_member(const Case& c, const Options& options, int32_t side, const std::string& folder,
                 Shared& shared) {
    void* context = zmq_ctx_new();
    void* in = zmq_socket(context, ZMQ_PULL);
    void* out = zmq_socket(context, ZMQ_PUSH);
    const std::string wanted = std::string(c.transport) == "tcp"
                                   ? "tcp://127.0.0.1:*"
                                   : "ipc://" + folder + "/" + std::to_string(side);
    check(zmq_bind(in, wanted.c_str()) == 0, "bind");
    size_t size = sizeof(shared.endpoints[side]);
    check(zmq_getsockopt(in, ZMQ_LAST_ENDPOINT, shared.endpoints[side], &size) == 0, "endpoint");
    for (++shared.bound; shared.bound < 2;) usleep(100);
    check(zmq_connect(out, shared.endpoints[1 - side]) == 0, "connect");

    const auto send = [&](const Stamp& stamp) {
        zmq_msg_t message;
        check(zmq_msg_init_size(&message, options.bytes) == 0, "message");
        std::memset(zmq_msg_data(&message), 0, options.bytes);
        std::memcpy(zmq_msg_data(&message), &stamp, sizeof(stamp));
        check(zmq_msg_send(&message, out, 0) >= 0, "send");
    };
    const int64_t end_ns = now_ns() + static_cast<int64_t>(1e9 * options.seconds);
    if (side == 0) send({now_ns(), 0, false});
    for (Stamp stamp = {}; !stamp.last;) {
        zmq_pollitem_t item = {in, 0, ZMQ_POLLIN, 0};
        while (zmq_poll(&item, 1, c.spin ? 0 : -1) == 0) {
        }
        zmq_msg_t message;
        zmq_msg_init(&message);
        check(zmq_msg_recv(&message, in, ZMQ_DONTWAIT) >= 0, "receive");
        const int64_t came_ns = now_ns();
        std::memcpy(&stamp, zmq_msg_data(&message), sizeof(stamp));
        zmq_msg_close(&message);
        int32_t& count = shared.counts[side];
        if (stamp.hops >= kWarmHops && count < kSamplesMax) {
            shared.times_ns[side][count++] = static_cast<int32_t>(came_ns - stamp.sent_ns);
        }
        if (side == 0 && stamp.last) break;
        const bool enough = came_ns > end_ns && stamp.hops >= kHopsMin;
        const bool last = side == 0 ? enough : stamp.last;
        send({now_ns(), stamp.hops + 1, last});
    }
    zmq_close(in);
    zmq_close(out);
    zmq_ctx_term(context);
}

void wait_for(pid_t pid, const char* what) {
    int status = 0;
    if (waitpid(pid, &status, 0) != pid || status != 0) fail(std::string(what) + " ended early");
}

// All one-way times of a case, sorted, in microseconds.
std::vector<double> measure(const Case& c, const Options& options, const std::string& folder,
                            Shared& shared) {
    std::memset(static_cast<void*>(&shared), 0, sizeof(shared));
    const std::vector<int32_t> cpus = allowed_cpus();
    std::vector<pid_t> spinners;
    if (c.load != Load::kIdle) {
        for (const int32_t cpu : cpus) {
            spinners.push_back(start([&] { spin_for_ever(cpu, c.load); }));
        }
    }
    const auto member = [&](int32_t side) {
        return start([&] {
            if (options.pin) pin_to(cpus[side % cpus.size()]);
            ring_member(c, options, side, folder, shared);
        });
    };
    const pid_t first = member(0), second = member(1);
    wait_for(first, "the first process");
    wait_for(second, "the second process");
    for (const pid_t pid : spinners) {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
    }
    std::vector<double> times_us;
    for (int32_t side = 0; side < 2; ++side) {
        for (int32_t i = 0; i < shared.counts[side]; ++i) {
            times_us.push_back(1e-3 * shared.times_ns[side][i]);
        }
    }
    std::sort(times_us.begin(), times_us.end());
    return times_us;
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const double next = i + 1 < argc ? std::atof(argv[i + 1]) : 0.0;
        if (word == "--json") {
            options.as_json = true;
        } else if (word == "--pin") {
            options.pin = true;
        } else if (word == "--seconds" && next > 0.0) {
            options.seconds = next;
            ++i;
        } else if (word == "--bytes" && next >= sizeof(Stamp)) {
            options.bytes = static_cast<size_t>(next);
            ++i;
        } else {
            std::fprintf(stderr,
                         "usage: hop_bench [--json] [--seconds 1.5] [--bytes 2400] [--pin]\n");
            std::exit(64);
        }
    }
    return options;
}

void print(const Case& c, const std::vector<double>& times_us, bool as_json, bool is_first) {
    const auto at = [&](double share) {
        return times_us[static_cast<size_t>(share * static_cast<double>(times_us.size() - 1))];
    };
    const char* receiver = c.spin ? "spins" : "blocks";
    if (as_json) {
        std::printf("%s\n {\"transport\": \"%s\", \"load\": \"%s\", \"receiver\": \"%s\", "
                    "\"hops\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}",
                    is_first ? "[" : ",", c.transport, load_name(c.load), receiver, times_us.size(),
                    at(0.5), at(0.99), at(1.0));
    } else {
        std::printf("%-4s %-18s %-7s %8zu %9.1f %9.1f %9.1f\n", c.transport, load_name(c.load),
                    receiver, times_us.size(), at(0.5), at(0.99), at(1.0));
    }
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    void* map = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                     -1, 0);
    if (map == MAP_FAILED) fail("no shared memory");
    Shared& shared = *new (map) Shared{};
    char folder[] = "/tmp/hop_bench.XXXXXX";
    if (mkdtemp(folder) == nullptr) fail("no folder for the ipc sockets");
    if (!options.as_json) {
        std::printf("%-4s %-18s %-7s %8s %9s %9s %9s\n", "", "cores", "receiver", "hops", "p50 us",
                    "p99 us", "max us");
    }
    bool is_first = true;
    for (const char* transport : {"ipc", "tcp"}) {
        for (const Load load : {Load::kIdle, Load::kOther, Load::kBatch, Load::kNice}) {
            for (const bool spin : {false, true}) {
                const Case c = {transport, load, spin};
                print(c, measure(c, options, folder, shared), options.as_json, is_first);
                is_first = false;
            }
        }
    }
    if (options.as_json) std::printf("]\n");
    for (const char* name : {"/0", "/1"}) unlink((std::string(folder) + name).c_str());
    rmdir(folder);
}
