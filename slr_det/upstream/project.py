"""What an adapter says about the upstream project whose checkout it drives: plain data, and contracts to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from slr_det.adapter import ENTRY_POINT_GROUP, load_adapter
from slr_det.errors import ConfigError, MissingExtraError, SlrDetError, nearest


class ContractError(SlrDetError):
    """A contract does not hold: the checkout is there and runs, but does something else than the adapter expects."""


@dataclass(frozen=True)
class Seam:
    """A name in an upstream project that an adapter relies on.

    Attributes:
        module: The module that has it, such as ``utils.factory``.
        name: The function, class, variable, or ``Class.member``.
        use: What the adapter does with it, to be read after "which": ``gives the losses that ...``.
        takes: How it is called: ``"model, data, *, epochs, cfg?"`` has two arguments by position, ``epochs`` by name,
            and ``cfg`` by name where this version knows it. None where it is not called, or how does not matter.
        reads: Names that the function has to take from its module when it runs, because the adapter puts its own
            there.
    """

    module: str
    name: str
    use: str
    takes: str | None = None
    reads: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How a table calls it, such as ``utils.factory.get_loss_dict(cfg)``."""
        return f"{self.module}.{self.name}" + ("" if self.takes is None else f"({self.takes})")


@dataclass(frozen=True)
class NeededFile:
    """A file of the checkout, such as a configuration, that is no module; ``use`` as of :class:`Seam`."""

    path: str
    use: str


@dataclass(frozen=True)
class Contract:
    """Something that a checkout has to do.

    Attributes:
        name: A word, unique in its project.
        says: What holds where it passes, in a few words.
        run: Called with the checkout and a folder to write in, which a project's contracts share; returns what was
            found on one line. Raises :class:`ContractError`, or whatever upstream raises.
    """

    name: str
    says: str
    run: Callable[[Path, Path], str]


@dataclass(frozen=True)
class Upstream:
    """A project whose checkout an adapter drives.

    Attributes:
        name: The adapter's name.
        title: The project's.
        commit: The commit that the adapter was written for, as third_party pins it; may be shortened.
        variable: Environment variable that names the user's checkout.
        default: Where the submodule is, from the root of this repository.
        locate: The checkout that a user named, or that of ``variable``, or ``default``; it may be absent.
        around: The checkout that a model word lies in, such as a configuration of its own; None where it lies in none.
        seams: What is relied on.
        files: What else has to be there.
        contracts: What is run, in this order.
        roots: Folders of the checkout that its modules are imported from.
    """

    name: str
    title: str
    commit: str
    variable: str
    default: str
    locate: Callable[[str], Path]
    seams: tuple[Seam, ...]
    files: tuple[NeededFile, ...] = ()
    contracts: tuple[Contract, ...] = ()
    roots: tuple[str, ...] = ("",)
    around: Callable[[str], Path | None] = lambda _: None

    def is_at(self, path: Path) -> bool:
        """Whether anything is there: a submodule that was not fetched is an empty folder."""
        return path.is_dir() and any(path.iterdir())

    @property
    def fetch(self) -> str:
        """What brings the pinned checkout, in a clone of this repository."""
        return f"git submodule update --init {self.default}"


@runtime_checkable
class DrivesUpstream(Protocol):
    """What an adapter offers beside :class:`slr_det.adapter.Adapter` where it drives a checkout."""

    def upstream(self) -> Upstream:
        """The project, and what is relied on."""


def upstreams(names: list[str] | tuple[str, ...] = ()) -> list[Upstream]:
    """The projects of all installed adapters that drive a checkout, by name; or of those in ``names``, in that order.

    Raises:
        ConfigError: A name is none of them.
        MissingExtraError: A named adapter cannot be loaded.
    """
    found: dict[str, Upstream] = {}
    absent: dict[str, MissingExtraError] = {}
    for name in sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}):
        try:
            adapter = load_adapter(name)
        except MissingExtraError as error:
            absent[name] = error
            continue
        if isinstance(adapter, DrivesUpstream):
            found[name] = adapter.upstream()
    for name in names:
        if name in absent:
            raise absent[name]
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ConfigError(
            [
                f"no adapter '{name}' drives a checkout{nearest(name, found)}; these do: {', '.join(found) or 'none'}"
                for name in unknown
            ]
        )
    return [found[name] for name in (dict.fromkeys(names) or found)]
