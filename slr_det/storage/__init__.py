"""Pruned models as small files, bit for bit: tensors by :func:`save` and :func:`load`, checkpoints by :func:`pack`.

The format is described byte by byte in docs/storage.md.
"""

from __future__ import annotations

from slr_det.storage.checkpoint import Packed, pack, unpack
from slr_det.storage.container import VERSION
from slr_det.storage.tensors import load, save

__all__ = ["VERSION", "Packed", "load", "pack", "save", "unpack"]
