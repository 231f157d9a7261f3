// Runs a target over its seeds, over the files that are named, and over damaged copies of both: the
// same ones in every run.
//   fuzz_TARGET [--rounds N] [FILE...]     runs; the last line is "N passed, 0 failed"
//   fuzz_TARGET --write DIR                writes the seeds there, for libFuzzer
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "target.hpp"

namespace chatloop::fuzz {
namespace {

constexpr size_t kInputBytesMax = 1u << 16;

void damage(Bytes& input, std::mt19937_64& random) {
    const auto below = [&random](size_t bound) { return bound == 0 ? 0 : random() % bound; };
    const auto at = [&](size_t offset) { return input.begin() + static_cast<ptrdiff_t>(offset); };
    for (uint64_t left = 1 + below(4); left > 0; --left) {
        const size_t offset = below(input.size());
        const size_t count = below(std::min<size_t>(input.size() - offset, 16) + 1);
        switch (below(6)) {
            case 0: if (!input.empty()) input[offset] = static_cast<uint8_t>(random()); break;
            case 1:
                if (!input.empty()) input[offset] ^= static_cast<uint8_t>(1u << below(8));
                break;
            case 2: input.erase(at(offset), at(offset + count)); break;
            case 3: input.insert(at(offset), static_cast<uint8_t>(random())); break;
            case 4: input.resize(below(input.size() + 1)); break;
            case 5: {
                const Bytes part(at(offset), at(offset + count));
                input.insert(at(below(input.size() + 1)), part.begin(), part.end());
                break;
            }
        }
    }
    if (input.size() > kInputBytesMax) input.resize(kInputBytesMax);
}

// What the target is at, for the file that a finding leaves.
const Bytes* current = nullptr;

extern "C" void keep_input(int signal) {
    const int file = open("finding", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file >= 0 && write(file, current->data(), current->size()) >= 0)
        write(STDERR_FILENO, "the input is in the file `finding`\n", 35);
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

void try_input(const Bytes& input) {
    current = &input;
    LLVMFuzzerTestOneInput(input.data(), input.size());
}

int write_seeds(const std::string& folder) {
    size_t number = 0;
    for (const Bytes& seed : seeds()) {
        std::ofstream file(folder + "/seed-" + std::to_string(number++), std::ios::binary);
        file.write(reinterpret_cast<const char*>(seed.data()),
                   static_cast<std::streamsize>(seed.size()));
        if (!file) return 1;
    }
    return 0;
}

int run(size_t rounds, const std::vector<std::string>& files) {
    std::vector<Bytes> inputs = seeds();
    for (const std::string& name : files) {
        std::ifstream file(name, std::ios::binary);
        if (!file) return std::fprintf(stderr, "no file %s\n", name.c_str()), 1;
        inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    for (const int signal : {SIGABRT, SIGSEGV}) std::signal(signal, keep_input);
    for (const Bytes& input : inputs) try_input(input);
    std::mt19937_64 random(1);
    for (size_t round = 0; round < rounds; ++round) {
        Bytes input = inputs[random() % inputs.size()];
        damage(input, random);
        try_input(input);
    }
    std::printf("%zu inputs, %zu damaged copies\n1 passed, 0 failed\n", inputs.size(), rounds);
    return 0;
}

}  // namespace
}  // namespace chatloop::fuzz

int main(int argc, char** argv) {
    size_t rounds = 20'000;
    std::vector<std::string> files;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--write" && i + 1 < argc) return chatloop::fuzz::write_seeds(argv[i + 1]);
        if (word == "--rounds" && i + 1 < argc) {
            const char* text = argv[++i];
            std::from_chars(text, text + std::strlen(text), rounds);
        } else {
            files.emplace_back(word);
        }
    }
    return chatloop::fuzz::run(rounds, files);
}
