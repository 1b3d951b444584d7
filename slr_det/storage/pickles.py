"""Which dtype each storage of a torch checkpoint has, read off its pickle without unpickling it."""

from __future__ import annotations

import pickletools
from collections import deque
from typing import Any

#: By the names of torch's storage classes; what is not here is stored as bytes.
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "ComplexDoubleStorage": "C128",
    "ComplexFloatStorage": "C64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}

_PUSHES = ("UNICODE", "STRING", "INT", "LONG")
_WINDOW = 8  # plain values to remember: the five of a persistent id, and names that a class takes on the way


def storage_dtypes(data: bytes) -> dict[str, str]:
    """Dtypes by storage key, as far as the pickle tells: ``{"0": "F32", ...}``.

    torch names a storage by the persistent id ``("storage", class, key, location, numel)``. Nothing is built or run:
    the opcodes are read one by one, remembering the last few plain values. A pickle that is not understood gives fewer
    dtypes, never a wrong file: a dtype decides how well a storage compresses and nothing else.
    """
    found: dict[str, str] = {}
    memo: dict[int, Any] = {}
    recent: deque[Any] = deque([None] * _WINDOW, maxlen=_WINDOW)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "GLOBAL":
                recent.append(str(argument).rpartition(" ")[2])
            elif name == "STACK_GLOBAL":
                kind = recent.pop()
                recent[-1] = kind  # where the module's name was
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                recent.append(memo.get(int(argument or 0)))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[int(argument or 0)] = recent[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = recent[-1]
            elif name == "BINPERSID":
                word, kind, key, _, _ = list(recent)[-5:]
                if word == "storage" and isinstance(key, str) and kind in STORAGES:
                    found[key] = STORAGES[kind]
            elif any(push in name for push in _PUSHES):
                recent.append(argument)
    except Exception:  # genops raises whatever a malformed argument leads to
        return found
    return found
