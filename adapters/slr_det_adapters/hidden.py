"""A checkout whose modules have names that belong to many, such as ``utils`` and ``train``.

They are found, and are in ``sys.modules``, inside :meth:`Checkout.modules` only; others of the same names come back
afterwards. Nothing in the checkout is edited and nothing is written into it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from slr_det.errors import ConfigError, MissingExtraError


@dataclass(frozen=True)
class Project:
    """What is known of an upstream project.

    Attributes:
        title: Its name, for messages.
        names: Top-level names of its modules.
        commit: The commit that the adapter was written for.
        stand_ins: Supplies missing packages while a module is imported.
        install: Package to install by the module that it brings, where these differ.
    """

    title: str
    names: tuple[str, ...]
    commit: str
    stand_ins: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    install: Mapping[str, str] = field(default_factory=dict)


class Checkout:
    """An imported checkout.

    Attributes:
        root: Its folder.
        project: What it is a checkout of.
    """

    def __init__(self, root: Path, project: Project) -> None:
        self.root = root
        self.project = project
        self._own: dict[str, ModuleType] = {}
        self._others: dict[str, ModuleType] = {}
        self._depth = 0

    def seam(self, module_name: str, name: str) -> Any:
        """An attribute of one of its modules.

        Raises:
            ConfigError: This version of the project has moved it.
            MissingExtraError: The module needs a package that is not installed.
        """
        with self.modules(), self.project.stand_ins():
            try:
                found = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if package in self.project.names:
                    raise ConfigError(self._moved(module_name, name)) from error
                raise MissingExtraError(
                    f"{self.project.title} at {self.root} needs the package '{package}', which is not installed; "
                    f"run: uv pip install {self.project.install.get(package, package)}"
                ) from error
            except ImportError as error:
                raise ConfigError(f"{self._moved(module_name, name)} ({error})") from error
        try:
            return getattr(found, name)
        except AttributeError:
            raise ConfigError(self._moved(module_name, name)) from None

    @contextlib.contextmanager
    def replaced(self, module_name: str, **names: Any) -> Iterator[None]:
        """Let names of one of its modules mean something else inside the block.

        A name that does not exist yet (such as one that its main program sets) is gone again afterwards.
        """
        target = sys.modules[module_name]
        before = {name: vars(target)[name] for name in names if name in vars(target)}
        vars(target).update(names)
        try:
            yield
        finally:
            for name in names:
                del vars(target)[name]
            vars(target).update(before)

    @contextlib.contextmanager
    def modules(self) -> Iterator[None]:
        """Have its modules in ``sys.modules``, and let more of them be found; write no bytecode beside them."""
        self._depth += 1
        if self._depth > 1:
            try:
                yield
            finally:
                self._depth -= 1
            return
        names = self.project.names
        finder, bytecode, places = _Finder(self.root, names), sys.dont_write_bytecode, list(sys.path)
        self._others = _taken_out(names)
        sys.modules.update(self._own)
        sys.meta_path.insert(0, finder)
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            self._depth -= 1
            sys.dont_write_bytecode = bytecode
            sys.meta_path.remove(finder)
            sys.path[:] = places  # programs add their own folder to it
            self._own = _taken_out(names)
            sys.modules.update(self._others)

    def _moved(self, module_name: str, name: str) -> str:
        commit = self.project.commit
        return (
            f"{self.root}: this version of {self.project.title} has no '{name}' in {module_name}, which the adapter "
            f"drives; check out commit {commit}: git -C {self.root} checkout {commit}"
        )


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return sys.modules.get(package) is not None or importlib.util.find_spec(package) is not None


class _Finder(MetaPathFinder):
    """Finds the top-level modules of a checkout before any others of the same names."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = root
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        file, folder = self._root / f"{fullname}.py", self._root / fullname
        if file.is_file():
            return importlib.util.spec_from_file_location(fullname, file)
        if not folder.is_dir():
            return None
        if (folder / "__init__.py").is_file():
            return importlib.util.spec_from_file_location(
                fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
        # Without __init__.py a folder is found only behind any package of its name.
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


def _taken_out(names: Sequence[str]) -> dict[str, ModuleType]:
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}
