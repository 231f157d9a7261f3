"""The version of ChatLoop: of the file VERSION, which meson reads, too."""

from __future__ import annotations

from importlib import resources


def version() -> str:
    return resources.files(__package__).joinpath("VERSION").read_text(encoding="ascii").strip()


def version_line(program: str) -> str:
    """What `program --version` prints."""
    return f"{program} {version()}"
