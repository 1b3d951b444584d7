"""The pruning methods: one file each, found by being in this folder.

A method outside this package registers itself with :func:`register` when its module is imported.
"""

from __future__ import annotations

import importlib
import pkgutil

from slr_det.methods.protocol import Hyper, Method, MethodState, Record, get, names, record, register

__all__ = ["Hyper", "Method", "MethodState", "Record", "get", "names", "record", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
