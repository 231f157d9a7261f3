"""Random JSON schemas whose answers end: everything that could go on for ever has a bound."""

from __future__ import annotations

import random
from typing import Any

WORDS = ["name", "city", "age", "tags", "ok", "größe", "a b", "kind", "next", "x"]
DEPTH_MAX = 3


def random_schema(seed: int) -> dict[str, Any]:
    """An object with up to four properties."""
    rng = random.Random(seed)
    schema = _object(rng, 0)
    if rng.random() < 0.3:
        schema["$defs"] = {"shared": _value(rng, DEPTH_MAX)}
        schema["properties"]["ref"] = {"$ref": "#/$defs/shared"}
        schema["required"].append("ref")
    return schema


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 4))
    return {"type": "object",
            "properties": {name: _value(rng, depth + 1) for name in names},
            "required": [name for name in names if rng.random() < 0.7],
            "additionalProperties": False}


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _value(rng, depth + 1), "minItems": least,
            "maxItems": least + rng.randint(0, 2)}


def _integer(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.randint(-1000, 1000)
    schema = {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 2000)}
    if rng.random() < 0.3:
        schema["exclusiveMinimum"] = schema.pop("minimum") - 1
    return schema


def _string(rng: random.Random, _: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"type": "string", "pattern": rng.choice(["^[A-Z]{2}[0-9]{1,3}$", "^(a|bc)d?$",
                                                         "^[a-zß]{1,8}$"])}
    if rng.random() < 0.2:
        return {"type": "string", "format": rng.choice(["ipv4", "uuid"])}
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 20)}


def _enum(rng: random.Random, _: int) -> dict[str, Any]:
    values: list[Any] = ["red", "grün", 1, -2.5, None, True, "with \"quotes\"\n", [1, 2], {"a": 1}]
    return {"enum": rng.sample(values, rng.randint(1, 4))}


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_integer, _string, _enum, lambda *_: {"type": "boolean"}, lambda *_: {"type": "null"},
             lambda *_: {"const": rng.choice(["fixed", 7, {"k": [None]}])},
             lambda r, d: {"anyOf": [_integer(r, d), _string(r, d)]},
             lambda r, d: {"type": ["boolean", "null"]}]
    if depth < DEPTH_MAX:
        kinds += [_object, _array, _array]
    return rng.choice(kinds)(rng, depth)
