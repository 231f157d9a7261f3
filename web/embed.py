"""embed.py OUTPUT FILE...: the files as a C++ table of names, bytes and tags (actors/page.hpp).

The style sheet becomes part of index.html, so that the first answer is all that a browser needs to
paint the page; its hash is what the Content-Security-Policy lets through.
"""

import base64
import hashlib
import pathlib
import sys

PER_LINE = 24
STYLE_LINK = b'<link rel="stylesheet" href="/web/style.css">'


def main() -> None:
    output, *inputs = sys.argv[1:]
    files = {path.name: path.read_bytes() for path in map(pathlib.Path, inputs)}
    style = files["style.css"]
    assert files["index.html"].count(STYLE_LINK) == 1 and b"</" not in style
    files["index.html"] = files["index.html"].replace(STYLE_LINK, b"<style>" + style + b"</style>")
    style_hash = base64.b64encode(hashlib.sha256(style).digest()).decode()
    lines = ['#include "actors/page.hpp"', "", "namespace chatloop::actors {", "",
             "const char* page_style_hash() {", f'    return "sha256-{style_hash}";', "}", "",
             "std::span<const PageFile> page_files() {"]
    entries = []
    for index, (name, data) in enumerate(sorted(files.items())):
        lines.append(f"    static constexpr unsigned char kFile{index}[] = {{")
        for at in range(0, len(data), PER_LINE):
            lines.append("        " + "".join(f"{byte}," for byte in data[at:at + PER_LINE]))
        lines.append("    };")
        tag = hashlib.sha256(data).hexdigest()[:16]
        entries.append(f'        {{"{name}", kFile{index}, {len(data)}, "\\"{tag}\\""}},')
    lines += ["    static constexpr PageFile kFiles[] = {", *entries, "    };",
              "    return kFiles;", "}", "", "}  // namespace chatloop::actors", ""]
    pathlib.Path(output).write_text("\n".join(lines))


main()
