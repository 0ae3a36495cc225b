"""The safetensors format: 8 bytes with the header's length, a JSON header, then the tensors' bytes.

Format: https://huggingface.co/docs/safetensors, section "Format". It holds tensors and text only,
so nothing in it can run code. Every number of the header is checked before it is used.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LARGEST_HEADER = 100_000_000  # bytes, as the reference implementation has it
KINDS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes (9 at least) is meant to be one."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_HEADER


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name. ValueError: the file breaks the format, with the reason."""
    data = bytearray(path.read_bytes())  # writable, as PyTorch wants it
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(LARGEST_HEADER, len(data) - 8):
        raise ValueError("its header is cut short")
    header = _header(bytes(data[8 : 8 + length]))
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int]] = []
    start, size = 8 + length, len(data) - 8 - length
    for name, entry in header.items():
        kind, shape, (begin, end) = _entry(name, entry)
        count = math.prod(shape)
        if end > size:
            raise ValueError(f"{name} lies beyond the end of the file: it is cut short")
        if end - begin != count * kind.itemsize:
            raise ValueError(f"{name} has {end - begin} bytes, not {count * kind.itemsize}")
        spans.append((begin, end))
        piece = data[start + begin : start + end]  # a copy, so that it is aligned
        flat = torch.frombuffer(piece, dtype=kind) if count else torch.empty(0, dtype=kind)
        tensors[name] = flat.reshape(shape)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError("its tensors overlap or leave gaps")
        position = end
    if position != size:
        raise ValueError("bytes follow after the last tensor")
    return tensors


def _header(text: bytes) -> dict[str, Any]:
    """The header without its metadata."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name of its header is there twice")
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("its header is not one of tensors") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not one of tensors")
    header.pop("__metadata__", None)
    return header


def _entry(name: str, entry: Any) -> tuple[torch.dtype, list[int], list[int]]:
    """Kind, shape and place of a tensor as the header has them."""
    values = entry if isinstance(entry, dict) else {}
    shape, place = _numbers(values.get("shape")), _numbers(values.get("data_offsets"))
    if shape is None or place is None or len(place) != 2 or place[0] > place[1]:
        raise ValueError(f"its header does not say where {name} is")
    if (kind := KINDS.get(str(values.get("dtype")))) is None:
        raise ValueError(f"{name} is of an unknown kind, {values.get('dtype')!s:.20}")
    return kind, shape, place


def _numbers(value: Any) -> list[int] | None:
    """The value if it is a list of whole numbers from 0 on."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**62 for n in value):
        return None
    return value
