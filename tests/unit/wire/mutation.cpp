#include "mutation.hpp"

#include <bit>
#include <cmath>
#include <map>
#include <msgpack.hpp>
#include <vector>

namespace chatloop::wire::test {
namespace {

using Object = msgpack::object;

struct Change {
    const char* name;
    Object object;
};

struct Sink {
    Bytes bytes;
    void write(const char* data, size_t size) { bytes.insert(bytes.end(), data, data + size); }
};

// As msgpack::pack, but a float stays one: msgpack-c writes 2.0 as the integer 2.
void emit(Sink& sink, const Object& object) {
    msgpack::packer<Sink> packer(sink);
    if (object.type == msgpack::type::FLOAT32 || object.type == msgpack::type::FLOAT64) {
        const bool narrow = object.type == msgpack::type::FLOAT32;
        const uint64_t bits = narrow
                                  ? std::bit_cast<uint32_t>(static_cast<float>(object.via.f64))
                                  : std::bit_cast<uint64_t>(object.via.f64);
        sink.bytes.push_back(narrow ? 0xca : 0xcb);
        for (int shift = narrow ? 24 : 56; shift >= 0; shift -= 8) {
            sink.bytes.push_back(static_cast<uint8_t>(bits >> shift));
        }
    } else if (object.type == msgpack::type::ARRAY) {
        packer.pack_array(object.via.array.size);
        for (uint32_t i = 0; i < object.via.array.size; ++i) emit(sink, object.via.array.ptr[i]);
    } else if (object.type == msgpack::type::MAP) {
        packer.pack_map(object.via.map.size);
        for (uint32_t i = 0; i < object.via.map.size; ++i) {
            emit(sink, object.via.map.ptr[i].key);
            emit(sink, object.via.map.ptr[i].val);
        }
    } else {
        packer.pack(object);
    }
}

bool is_number(const Object& object) {
    return object.type == msgpack::type::POSITIVE_INTEGER ||
           object.type == msgpack::type::FLOAT32 || object.type == msgpack::type::FLOAT64;
}

class Mutator {
public:
    Mutator(ByteView encoded, const std::function<bool(ByteView)>& accepts) : accepts_(accepts) {
        handle_ = msgpack::unpack(reinterpret_cast<const char*>(encoded.data()), encoded.size());
        root_ = handle_.get();
        visit(root_, "");
    }
    std::set<std::string> accepted;

private:
    void visit(Object& node, const std::string& path) {
        for (const Change& change : changes(node)) attempt(node, change.object, path, change.name);
        if (node.type == msgpack::type::ARRAY) {
            for (uint32_t i = 0; i < node.via.array.size; ++i) {
                visit(node.via.array.ptr[i], path + "/" + std::to_string(i));
            }
        } else if (node.type == msgpack::type::MAP) {
            for (uint32_t i = 0; i < node.via.map.size; ++i) {
                msgpack::object_kv& entry = node.via.map.ptr[i];
                attempt(entry.key, Object(true), path, "key bool");
                attempt(entry.key, Object("nokey", *handle_.zone()), path, "key unknown");
                visit(entry.val, path + "/" + key_name(entry.key));
            }
        }
    }

    static std::string key_name(const Object& key) {
        if (key.type == msgpack::type::STR) return key.as<std::string>();
        return std::to_string(key.via.u64);
    }

    // A scalar in place of every node; for arrays and maps one element less and one more.
    std::vector<Change> changes(const Object& node) {
        msgpack::zone& zone = *handle_.zone();
        std::vector<Change> list;
        if (node.type != msgpack::type::NIL) list.push_back({"nil", Object()});
        if (node.type != msgpack::type::BOOLEAN) list.push_back({"bool", Object(true)});
        if (node.type != msgpack::type::STR) list.push_back({"str", Object("x", zone)});
        else list.push_back({"not utf8", Object(std::string("\xc0\xaf"), zone)});
        const std::vector<char> bin = {'x'};
        if (node.type != msgpack::type::BIN) list.push_back({"bin", Object(bin, zone)});
        list.push_back({"negative", Object(-1)});
        list.push_back({"nan", Object(std::nanf(""))});
        list.push_back({"huge float", Object(1e300)});
        if (!is_number(node)) list.push_back({"number", Object(1)});
        list.push_back({"huge", Object(UINT64_MAX)});
        if (node.type == msgpack::type::ARRAY) {
            if (node.via.array.size > 0) list.push_back({"shorter", resized(node, -1)});
            list.push_back({"longer", resized(node, 1)});
        } else {
            list.push_back({"array", Object(std::vector<int>{1}, zone)});
        }
        if (node.type == msgpack::type::MAP) {
            Object smaller = node;
            if (smaller.via.map.size > 0) {
                --smaller.via.map.size;
                list.push_back({"smaller", smaller});
            }
        } else {
            list.push_back({"map", Object(std::map<std::string, int>{{"a", 1}}, zone)});
        }
        return list;
    }

    // One element less, or one more: a boolean, which is an element of no list.
    Object resized(const Object& node, int difference) {
        Object result = node;
        const uint32_t count = node.via.array.size;
        result.via.array.size = count + difference;
        if (difference < 0) return result;
        const size_t bytes = (count + 1) * sizeof(Object);
        void* memory = handle_.zone()->allocate_align(bytes, alignof(Object));
        result.via.array.ptr = static_cast<Object*>(memory);
        for (uint32_t i = 0; i < count; ++i) result.via.array.ptr[i] = node.via.array.ptr[i];
        result.via.array.ptr[count] = Object(true);
        return result;
    }

    void attempt(Object& node, const Object& replacement, const std::string& path,
                 const std::string& change) {
        const Object kept = node;
        node = replacement;
        Sink sink;
        emit(sink, root_);
        node = kept;
        if (accepts_(sink.bytes)) accepted.insert(path + " " + change);
    }

    const std::function<bool(ByteView)>& accepts_;
    msgpack::object_handle handle_;
    Object root_;
};

}  // namespace

std::set<std::string> accepted_mutations(ByteView encoded,
                                         const std::function<bool(ByteView)>& accepts) {
    return Mutator(encoded, accepts).accepted;
}

}  // namespace chatloop::wire::test
