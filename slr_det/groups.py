"""Parameter groups: which named tensors are pruned together, onto which set, and how much of them is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import Tensor

from slr_det.errors import ConfigError, nearest

if TYPE_CHECKING:
    from slr_det.projections import Projection


@dataclass(frozen=True)
class GroupSpec:
    """What :func:`build_groups` needs to know about one group.

    Attributes:
        name: Name of the group, unique in a run.
        params: Parameter names; several names share one budget ``l = round(keep * total numel)``.
        keep: Keep ratio in (0, 1]: the fraction of the group's weights that stays nonzero.
        projection: The set S_n the group is projected onto.
    """

    name: str
    params: tuple[str, ...]
    keep: float
    projection: Projection


@dataclass(frozen=True, eq=False)
class ParamGroup:
    """Live tensors W_n of a model with the set S_n they are pruned onto (equation 2).

    Attributes:
        name: Name of the group.
        params: Pairs of parameter name and the model's own tensor (not a copy), floating point, any shape.
        keep: Keep ratio in (0, 1].
        projection: The set S_n.
    """

    name: str
    params: tuple[tuple[str, Tensor], ...]
    keep: float
    projection: Projection

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.params)

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters, detached: views that share the model's memory and carry no gradient."""
        return [tensor.detach() for _, tensor in self.params]

    @property
    def numel(self) -> int:
        return sum(tensor.numel() for _, tensor in self.params)


def build_groups(named: Mapping[str, Tensor], specs: Sequence[GroupSpec]) -> list[ParamGroup]:
    """Bind specifications to the tensors of a model.

    Args:
        named: The model's parameters by name, for example ``dict(model.named_parameters())``.
        specs: One specification per group.

    Returns:
        One :class:`ParamGroup` per specification, in order.

    Raises:
        ConfigError: With every problem at once: an unknown parameter (and the nearest name), a parameter in two
            groups, an empty or repeated group, a keep ratio outside (0, 1], a tensor that is not floating point or
            that the projection cannot handle.
    """
    problems: list[str] = []
    owner: dict[str, str] = {}
    groups: list[ParamGroup] = []
    seen: set[str] = set()
    if not specs:
        problems.append(
            "there is nothing to prune: no parameter group was given; widen `include` or narrow `exclude`"
        )
    for spec in specs:
        if spec.name in seen:
            problems.append(f"group '{spec.name}' is defined twice; give each group its own name")
        seen.add(spec.name)
        if not spec.params:
            problems.append(f"group '{spec.name}' has no parameters; name at least one")
        if not 0.0 < spec.keep <= 1.0:
            problems.append(f"group '{spec.name}': keep is {spec.keep}, expected a ratio in (0, 1]")
        params: list[tuple[str, Tensor]] = []
        for param in spec.params:
            problem = _problem(param, spec, named, owner)
            if problem is None:
                params.append((param, named[param]))
                owner[param] = spec.name
            else:
                problems.append(problem)
        groups.append(ParamGroup(spec.name, tuple(params), spec.keep, spec.projection))
    if problems:
        raise ConfigError(problems)
    return groups


def _problem(
    param: str, spec: GroupSpec, named: Mapping[str, Tensor], owner: Mapping[str, str]
) -> str | None:
    """Why a parameter cannot join a group, or None if it can."""
    if param not in named:
        return f"group '{spec.name}': the model has no parameter '{param}'{nearest(param, named)}"
    if param in owner:
        where = "twice" if owner[param] == spec.name else f"and in group '{owner[param]}'"
        return f"parameter '{param}' is in group '{spec.name}' {where}; a weight is pruned by one group only"
    tensor = named[param]
    if not tensor.is_floating_point():
        return f"parameter '{param}' has dtype {tensor.dtype}, expected a floating point tensor"
    reason = spec.projection.check(tensor.shape)
    return (
        f"parameter '{param}' cannot be projected onto '{spec.projection.name}': {reason}" if reason else None
    )


def select(names: Iterable[str], include: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Select parameter names by globs.

    Args:
        names: Parameter names of the model, in the model's order.
        include: Globs (``fnmatch``: ``*``, ``?``, ``[...]``, case-sensitive); a name matched by one is selected.
        exclude: Globs; a name matched by one is dropped again.

    Returns:
        The selected names in the order of ``names``.

    Raises:
        ConfigError: For every glob that matches nothing, with the nearest parameter name.
    """
    every = list(names)
    problems = [
        f"{key}: '{glob}' matches no parameter of the model{nearest(glob.strip('*'), every)}"
        for key, globs in (("include", include), ("exclude", exclude))
        for glob in globs
        if not any(fnmatchcase(name, glob) for name in every)
    ]
    if problems:
        raise ConfigError(problems)
    return [
        name
        for name in every
        if any(fnmatchcase(name, glob) for glob in include)
        and not any(fnmatchcase(name, glob) for glob in exclude)
    ]
