"""What a projection is, how one is registered, and how one is named in a configuration."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from slr_det.errors import ConfigError, nearest
from slr_det.projections.scan import keep_entries

Shape = Sequence[int]


class Support(Protocol):
    """A support function says which entries the projection keeps."""

    def __call__(self, tensors: Sequence[Tensor], keep: float, **options: Any) -> list[Tensor]:
        """Bool masks, shaped like ``tensors``, of the entries that stay."""
        ...


@dataclass(frozen=True)
class _Family:
    """A registered support function with what is known about its set."""

    name: str
    support: Support
    defaults: Mapping[str, Any]
    normalise: Callable[..., Mapping[str, Any]] | None
    check: Callable[..., str | None] | None
    count: Callable[..., int | None] | None
    parse: Callable[[str], Mapping[str, Any] | None] | None
    label: Callable[..., str] | None
    doc: str = field(compare=False, default="")


REGISTRY: dict[str, _Family] = {}


def projection(
    name: str,
    *,
    normalise: Callable[..., Mapping[str, Any]] | None = None,
    check: Callable[..., str | None] | None = None,
    count: Callable[..., int | None] | None = None,
    parse: Callable[[str], Mapping[str, Any] | None] | None = None,
    label: Callable[..., str] | None = None,
) -> Callable[[Any], Any]:
    """Register a support function under ``name``; its keyword-only arguments become the projection's options.

    The function gets the tensors of a group and the keep ratio in (0, 1], and returns one bool mask per tensor:
    True where the Euclidean projection of the group onto the set is nonzero (or may be). Nothing else is needed;
    the keywords refine it.

    Args:
        normalise: ``normalise(**options)`` returns the options in their canonical, JSON-able form, or raises
            ``ValueError`` saying what is wrong with them.
        check: ``check(shapes, **options)`` returns why a group of these shapes cannot be projected, or None.
        count: ``count(shapes, keep, **options)`` returns how many entries are kept, or None where the values decide.
        parse: turns a short spelling such as ``"2:4"`` into options, or returns None where it is not one of its own.
        label: ``label(**options)`` is that short spelling; it must parse back.

    Raises:
        ConfigError: another function already has this name.
    """

    def register(function: Any) -> Any:
        if name in REGISTRY and REGISTRY[name].support is not function:
            raise ConfigError(f"projection '{name}' is registered already: choose another name")
        keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        missing = [p.name for p in keywords if p.default is p.empty]
        if missing:
            raise ConfigError(f"projection '{name}': option '{missing[0]}' needs a default value")
        defaults = {p.name: p.default for p in keywords}
        doc = inspect.getdoc(function) or ""
        REGISTRY[name] = _Family(name, function, defaults, normalise, check, count, parse, label, doc)
        return function

    return register


def names() -> list[str]:
    """The registered projections, in the order they were registered."""
    return list(REGISTRY)


def get(name: str, **options: Any) -> Projection:
    """The projection called ``name`` with the given options; see :class:`Projection`."""
    return Projection(name, options)


def _typed(name: str, option: str, value: Any, default: Any) -> str | None:
    """Why ``value`` has the wrong type for an option whose default is ``default``, or None."""
    if isinstance(default, bool):
        wanted, good = "true or false", isinstance(value, bool)
    elif isinstance(default, int):
        wanted, good = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        wanted, good = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        return None
    return None if good else f"projection '{name}': option '{option}' is {value!r}, expected {wanted}"


@dataclass(frozen=True)
class Projection:
    """The Euclidean projection onto one set S_n of equation (2), of one or several tensors under one budget.

    Built from a registered name and its options (missing ones take their defaults). Two projections with the same
    name and options are equal and hash alike.

    Raises:
        ConfigError: unknown name or option, or an option of the wrong type or out of range.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in REGISTRY:
            hint = nearest(self.name, REGISTRY)
            raise ConfigError(f"unknown projection '{self.name}'{hint}; there are: {', '.join(REGISTRY)}")
        family = REGISTRY[self.name]
        problems = [
            f"projection '{self.name}' has no option '{key}'{nearest(key, family.defaults)}; "
            f"it takes: {', '.join(family.defaults) or 'none'}"
            for key in self.options
            if key not in family.defaults
        ]
        merged = {**family.defaults, **{k: v for k, v in self.options.items() if k in family.defaults}}
        typed = (_typed(self.name, key, value, family.defaults[key]) for key, value in merged.items())
        problems += [problem for problem in typed if problem]
        if problems:
            raise ConfigError(problems)
        if family.normalise is not None:
            try:
                merged = dict(family.normalise(**merged))
            except ValueError as error:
                raise ConfigError(f"projection '{self.name}': {error}") from error
        object.__setattr__(self, "options", merged)

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted((k, repr(v)) for k, v in self.options.items()))))

    def __str__(self) -> str:
        """The short spelling, for tables: ``2:4``, ``block:4x4``, ``filter``; ``parse`` reads it back."""
        label = REGISTRY[self.name].label
        return label(**self.options) if label is not None else self.name

    @classmethod
    def parse(cls, spec: str | Mapping[str, Any] | Projection) -> Projection:
        """Read a projection from a configuration: ``"filter"``, ``"2:4"``, ``"block:4x4"``, or a mapping with a name.

        Raises:
            ConfigError: the text or mapping names no projection, or its options are wrong.
        """
        if isinstance(spec, Projection):
            return spec
        if isinstance(spec, Mapping):
            return cls.from_dict(spec)
        if not isinstance(spec, str):
            raise ConfigError(
                f"projection is {spec!r}, expected a name or a mapping such as {{name: block, rows: 4}}"
            )
        text = spec.strip()
        if text in REGISTRY:
            return cls(text)
        for family in REGISTRY.values():
            if family.parse is not None:
                options = family.parse(text)
                if options is not None:
                    return cls(family.name, options)
        head = text.partition(":")[0]
        raise ConfigError(
            f"unknown projection '{text}'{nearest(head, REGISTRY)}; there are: {', '.join(REGISTRY)} "
            "(short forms: '2:4', 'block:4x4', 'filter:coupled', 'kernel_pattern:centre')"
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Projection:
        """The inverse of :meth:`to_dict`: ``{"name": ..., option: value, ...}``."""
        if not isinstance(data.get("name"), str):
            raise ConfigError(f"projection {dict(data)!r} has no 'name'; there are: {', '.join(REGISTRY)}")
        return cls(data["name"], {key: value for key, value in data.items() if key != "name"})

    def to_dict(self) -> dict[str, Any]:
        """Name and options as plain JSON and YAML types, every option spelt out."""
        return {"name": self.name, **self.options}

    def check(self, *shapes: Shape) -> str | None:
        """Why a group of tensors of these shapes cannot be projected, in one phrase, or None where it can.

        One shape asks about that tensor alone; several ask about a group that shares a budget (or a mask).
        """
        if not shapes:
            return "the group has no tensors"
        for shape in shapes:
            if math.prod(shape) == 0:
                return f"shape {list(shape)} has no entries"
        check = REGISTRY[self.name].check
        return check(shapes, **self.options) if check is not None else None

    def count(self, shapes: Sequence[Shape], keep: float) -> int | None:
        """How many entries of a group of these shapes are kept: l of equation (2).

        None where the values decide it: slices of different sizes that compete for one budget.
        """
        _check_keep(keep)
        count = REGISTRY[self.name].count
        return count(shapes, keep, **self.options) if count is not None else None

    def support(self, tensors: Sequence[Tensor], keep: float) -> list[Tensor]:
        """Which entries the projection keeps.

        Args:
            tensors: Floating-point tensors of one group, any device, dtype and memory layout.
            keep: Keep ratio of the group, in (0, 1].

        Returns:
            One bool tensor per input, same shape and device. Ties go to the lower index over the concatenation of
            the tensors in order, so the masks are the same on every run and every rank. Where a tensor holds NaN
            the masks are unspecified (the count still holds); the engine checks for NaN before it projects.

        Raises:
            ConfigError: ``keep`` is out of range, or a shape cannot be projected.
        """
        _check_keep(keep)
        problem = self.check(*(tensor.shape for tensor in tensors))
        if problem is not None:
            raise ConfigError(f"projection '{self}': {problem}")
        with torch.no_grad():
            detached = [tensor.detach() for tensor in tensors]
            return REGISTRY[self.name].support(detached, keep, **self.options)

    def project(
        self, tensors: Sequence[Tensor], keep: float, out: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """The nearest point of the set, equation (10): the kept entries unchanged, exact zeros elsewhere.

        Args:
            tensors: As for :meth:`support`.
            keep: Keep ratio of the group, in (0, 1].
            out: Where to write, one tensor per input of the same shape; may be the inputs themselves.

        Returns:
            The projected tensors (``out`` where given). Beyond them only the masks are allocated, one byte an entry.
        """
        masks = self.support(tensors, keep)
        with torch.no_grad():
            if out is None:
                out = [torch.empty_like(tensor) for tensor in tensors]
            for tensor, mask, target in zip(tensors, masks, out, strict=True):
                keep_entries(tensor.detach(), mask, target.detach())
        return list(out)


def _check_keep(keep: float) -> None:
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep ratio is {keep!r}, expected a number in (0, 1]")


def budget(keep: float, total: int) -> int:
    """The l of equation (2): round(keep * total), at least 1 and at most ``total``."""
    return min(total, max(1, round(keep * total)))
