"""The hook that compiles the sparse runtime into wheels, and in place for editable installs.

It never fails an install: without a C compiler it says so in a line, the wheel is a pure one, and the package runs its
models dense until `python -m slr_det.runtime build` has built the library.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

PLACE, INSTALLED = Path("slr_det", "runtime"), "built"


class RuntimeBuildHook(BuildHookInterface):
    """Compiles the library for wheels; source distributions carry its sources only."""

    PLUGIN_NAME = "custom"
    _scratch = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; an editable install gets the library where the sources are, which git ignores."""
        if self.target_name != "wheel":
            return
        try:
            builder = _builder(Path(self.root))
            if version == "editable":
                self.app.display_info(f"sparse runtime: {builder.build(Path(self.root) / PLACE / INSTALLED)}")
                return
            self._scratch = tempfile.mkdtemp(prefix="slr-runtime-")
            library = builder.build(Path(self._scratch))
        except Exception as error:  # whatever is wrong here, the package works without
            said = " ".join(str(error).split()) or type(error).__name__
            self.app.display_warning(f"slr-det is installed without its sparse runtime: {said}")
            return
        for file in (library, builder.stamp_of(library)):
            build_data["force_include"][str(file)] = (PLACE / INSTALLED / file.name).as_posix()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the scratch folder."""
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _builder(root: Path) -> ModuleType:
    """slr_det/runtime/build.py by its file: its package imports torch, which is not there where wheels are built."""
    sys.path.insert(0, str(root))
    try:
        spec = importlib.util.spec_from_file_location("slr_det_runtime_build", root / PLACE / "build.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{root / PLACE / 'build.py'} cannot be read")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(root))


def _platform() -> str:
    """This system's tag, without a promise about older C libraries that nobody has checked."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
