// A GGUF file as --model of chatloop-cpud: the Python splitter makes a model directory of it, once.
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "chatloop/model/sha256.hpp"
#include "cpud_server.hpp"

extern char** environ;

namespace chatloop::actors {

namespace {

namespace fs = std::filesystem;

Result<std::string> sha256_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) return Error{ErrorCode::kBadFile, path + " cannot be read"};
    Sha256 hash;
    std::vector<char> buffer(kLoadBytes);
    while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), in.gcount() > 0)
        hash.update({reinterpret_cast<const uint8_t*>(buffer.data()),
                     static_cast<size_t>(in.gcount())});
    if (in.bad()) return Error{ErrorCode::kBadFile, path + " cannot be read"};
    return hash.finish();
}

fs::path cache_folder() {
    if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0')
        return fs::path(cache) / "chatloop" / "gguf";
    const char* home = std::getenv("HOME");
    return fs::path(home == nullptr ? "/tmp" : home) / ".cache" / "chatloop" / "gguf";
}

// CHATLOOP_SPLITTER names a program that takes the splitter's options; else it is this clone's, in
// the environment that quickstart.sh made.
std::vector<std::string> splitter() {
    if (const char* given = std::getenv("CHATLOOP_SPLITTER"); given != nullptr && *given != '\0')
        return {given};
    std::error_code error;
    const fs::path binary = fs::read_symlink("/proc/self/exe", error);
    const fs::path root = binary.parent_path().parent_path().parent_path();
    return {(root / "scripts" / "python.sh").string(),
            (root / "python" / "model_splitter" / "split_model.py").string()};
}

// Runs it; what it says goes to stderr.
Status run(const std::vector<std::string>& command) {
    std::vector<char*> words;
    for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    pid_t child = 0;
    const int error = posix_spawn(&child, words[0], &actions, nullptr, words.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0)
        return Error{ErrorCode::kBadFile,
                     command[0] + ": " + std::strerror(error) +
                         ": split the file with python/model_splitter/split_model.py and give the "
                         "directory, or set CHATLOOP_SPLITTER"};
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return Ok{};
    return Error{ErrorCode::kBadFile, "the splitter refused the file; its lines above say why"};
}

}  // namespace

Result<std::string> model_directory(const std::string& model) {
    std::error_code error;
    if (!model.ends_with(".gguf") || fs::is_directory(model, error)) return model;
    const Result<std::string> hash = sha256_of(model);
    if (!hash) return hash.error();
    const fs::path folder = cache_folder();
    const fs::path split = folder / *hash;
    if (fs::exists(split / kMetadataFile, error)) return split.string();
    fs::create_directories(folder, error);
    std::string part = (folder / "partial.XXXXXX").string();
    if (mkdtemp(part.data()) == nullptr)
        return Error{ErrorCode::kBadFile, part + ": " + std::strerror(errno)};
    std::vector<std::string> command = splitter();
    for (const std::string& word :
         {std::string("--model"), model, std::string("--output"), part,
          std::string("--num-partitions"), std::string("1")})
        command.push_back(word);
    if (const Status ran = run(command); !ran) {
        fs::remove_all(part, error);
        return ran.error();
    }
    chmod(part.c_str(), 0755);
    fs::rename(part, split, error);
    if (!error) return split.string();
    fs::remove_all(part, error);  // another process was faster, or the disk is full
    if (fs::exists(split / kMetadataFile, error)) return split.string();
    return Error{ErrorCode::kBadFile, split.string() + " cannot be made"};
}

}  // namespace chatloop::actors
