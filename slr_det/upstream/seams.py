"""Which seams of a checkout have moved, one line each. Sources are read, nothing of theirs is imported or run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slr_det.adapter import Adapter
from slr_det.errors import ConfigError, nearest
from slr_det.upstream.project import DrivesUpstream, NeededFile, Seam, Upstream
from slr_det.upstream.source import Absent, Definition, Parameters, Sources, reads

_LONGEST = 160  # characters of a signature in a message


def moved(root: Path, upstream: Upstream) -> dict[Seam | NeededFile, str]:
    """What has moved, each with the line that says so; empty where everything is where it was."""
    sources = Sources(root, upstream.roots)
    found: dict[Seam | NeededFile, str] = {}
    for seam in upstream.seams:
        problem = _problem(seam, sources)
        if problem:
            found[seam] = f"{problem}, which {seam.use}"
    for file in upstream.files:
        if not (root / file.path).is_file():
            near = nearest(
                file.path, (str(p.relative_to(root)) for p in (root / file.path).parent.glob("*.*"))
            )
            found[file] = f"{file.path} is missing{near}, which {file.use}"
    return found


def require(root: Path, upstream: Upstream) -> None:
    """Refuse a checkout whose modules have moved, before a run starts in it.

    Files that are no modules are looked for when a run asks for them: a user may have others.

    Raises:
        ConfigError: One line, with the first seam that moved and how many others have.
    """
    problems = [line for seam, line in moved(root, upstream).items() if isinstance(seam, Seam)]
    if len(problems) > 1 and len(problems) == len(upstream.seams):
        raise ConfigError(
            f"{root} is no checkout of {upstream.title}: nothing that this adapter uses is there; name one with "
            f"{upstream.variable}, or run: {upstream.fetch}"
        )
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(
            f"{root}: the seams of {upstream.title} have moved: {problems[0]}{others}; check out commit "
            f"{upstream.commit}, for which this adapter was written: git -C {root} checkout {upstream.commit}; "
            f"all of them: slr-det upstream check {upstream.name} --seams"
        )


def require_at_start(adapter: Adapter, model: str, given: Mapping[str, Any]) -> None:
    """Refuse, before anything of a run is done, a checkout whose modules have moved; see :func:`require`.

    Args:
        adapter: The trainer; nothing is looked at where it drives no checkout, or that is absent.
        model: The model word.
        given: The trainer's arguments, among them ``upstream`` where the user named a checkout.
    """
    if isinstance(adapter, DrivesUpstream):
        upstream = adapter.upstream()
        named = given.get("upstream") or upstream.around(model) or ""
        root = upstream.locate(str(named)).resolve()
        if upstream.is_at(root):
            require(root, upstream)


def _problem(seam: Seam, sources: Sources) -> str:
    found = sources.find(seam.module, seam.name)
    if isinstance(found, Absent):
        return f"{found.says}{nearest(found.wanted, found.near)}"
    if not isinstance(found, Definition):
        return ""
    if seam.takes is not None:
        parameters = sources.parameters(found)
        problem = "" if parameters is None else _misfit(seam.takes, parameters)
        if parameters is not None and problem:
            return f"{found.place}: {problem} (it is {parameters.text:.{_LONGEST}} now)"
    unread = [name for name in seam.reads if name not in reads(found)]
    if unread:
        return f"{found.place}: {seam.name} does not use '{unread[0]}' of its module any more"
    return ""


def _misfit(takes: str, has: Parameters) -> str:
    """Why a call as :attr:`Seam.takes` says cannot be made; empty where it can.

    A parameter that is given by its place alone may have another name now.
    """
    positional, _, named = (part.strip(" ,") for part in takes.partition("*"))
    by_place = [word.strip() for word in positional.split(",") if word.strip()]
    by_name = [word.strip() for word in named.split(",") if word.strip()]
    sure = [word for word in by_name if not word.endswith("?")]
    if len(by_place) > len(has.positional) and not has.any_position:
        lost = next((name for name in by_place if name not in has.positional), by_place[-1])
        return f"takes no '{lost}' any more"
    for place, name in enumerate(by_place[: len(has.positional)]):
        if has.positional[place] != name and name in has.positional:
            return f"takes '{name}' in another place"
    for name in sure:
        if name not in has.named and not has.any_name:
            return f"takes no '{name}' any more{nearest(name, has.named)}"
    given = {*has.positional[: len(by_place)], *(has.named & {word.rstrip("?") for word in by_name})}
    wanted = [name for name in has.required if name not in given]
    return f"wants '{wanted[0]}' as well, which the adapter does not know" if wanted else ""
