"""embed.py OUTPUT FILE...: the files as a C++ table of names and bytes (actors/page.hpp)."""

import pathlib
import sys

PER_LINE = 24


def main() -> None:
    output, *inputs = sys.argv[1:]
    lines = ['#include "actors/page.hpp"', "", "namespace chatloop::actors {", "",
             "std::span<const PageFile> page_files() {"]
    entries = []
    for index, name in enumerate(sorted(inputs)):
        data = pathlib.Path(name).read_bytes()
        lines.append(f"    static constexpr unsigned char kFile{index}[] = {{")
        for at in range(0, len(data), PER_LINE):
            lines.append("        " + "".join(f"{byte}," for byte in data[at:at + PER_LINE]))
        lines.append("    };")
        entries.append(f'        {{"{pathlib.Path(name).name}", kFile{index}, {len(data)}}},')
    lines += ["    static constexpr PageFile kFiles[] = {", *entries, "    };",
              "    return kFiles;", "}", "", "}  // namespace chatloop::actors", ""]
    pathlib.Path(output).write_text("\n".join(lines))


main()
