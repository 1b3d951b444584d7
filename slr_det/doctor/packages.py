"""Which packages are installed, for slr-det itself and for each of its extras; nothing is imported for that."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from urllib.parse import unquote, urlparse

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from slr_det.doctor.findings import Finding
from slr_det.errors import ConfigError, nearest

DISTRIBUTION = "slr-det"
#: Extras of those who work on slr-det itself.
INTERNAL = frozenset({"dev", "docs"})
#: Packages that give the same modules under other names.
STAND_INS = {
    "spconv": r"spconv-cu\d+",
    "ultralytics-opencv-headless": "ultralytics",
    "opencv-python-headless": r"opencv(-contrib)?-python(-headless)?",
}
GRAPHICS = "opencv-python"


def installed() -> dict[str, str]:
    """Versions of all packages of this environment, by canonical name."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a folder that an interrupted install left has none
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def check(versions: Mapping[str, str], need: Collection[str] = ()) -> Iterator[Finding]:
    """slr-det's own packages, then each extra.

    Args:
        versions: As of :func:`installed`.
        need: Extras whose absence is a problem.

    Raises:
        ConfigError: ``need`` names an extra that does not exist.
    """
    try:
        package = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        seen = "its modules are here, its package is not installed: no adapter will be found"
        yield Finding("packages", "problem", seen, 'uv pip install -e ".[yolo]" in its folder')
        return
    extras = [name for name in package.metadata.get_all("Provides-Extra") or () if name not in INTERNAL]
    unknown = [f"--need {name}: no such extra{nearest(name, extras)}" for name in need if name not in extras]
    if unknown:
        raise ConfigError(unknown)
    wanted = [Requirement(text) for text in package.requires or ()]
    own = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = list(_lacking(own, versions))
    facts = {"packages": {one.name: versions.get(canonicalize_name(one.name)) for one in own}}
    yield Finding(
        "packages",
        "problem" if wrong else "ok",
        "; ".join(wrong) if wrong else f"all {len(own)} that slr-det itself needs",
        _install(package, "") if wrong else "",
        facts,
    )
    for extra in extras:
        its = [one for one in wanted if one.marker is not None and one.marker.evaluate({"extra": extra})]
        yield _extra(extra, [one for one in its if one not in own], versions, extra in need, package)
    if GRAPHICS in versions and "opencv-python-headless" in versions:
        seen = f"{GRAPHICS} lies over opencv-python-headless, and needs the system's graphics libraries"
        remedy = (
            f"pip uninstall -y {GRAPHICS} && pip install --force-reinstall --no-deps opencv-python-headless"
        )
        yield Finding("opencv", "note", seen, remedy)


def _extra(
    name: str,
    requirements: Collection[Requirement],
    versions: Mapping[str, str],
    needed: bool,
    package: metadata.Distribution,
) -> Finding:
    lacking = list(_lacking(requirements, versions))
    install = _install(package, name) if lacking else ""
    facts = {
        "present": not lacking,
        "packages": {one.name: _version(one.name, versions) for one in requirements},
        "install": install,
    }
    if not lacking:
        found = ", ".join(f"{one.name} {_version(one.name, versions)}" for one in requirements)
        return Finding(f"extra {name}", "ok", found, facts=facts)
    seen = "absent" if len(lacking) == len(requirements) else "; ".join(lacking)
    return Finding(f"extra {name}", "problem" if needed else "note", seen, install, facts)


def _lacking(requirements: Collection[Requirement], versions: Mapping[str, str]) -> Iterator[str]:
    """One phrase for every requirement that is missing or has an unsuitable version."""
    for one in requirements:
        version = _version(one.name, versions)
        if version is None:
            yield f"{one.name} is missing"
        elif not one.specifier.contains(version, prereleases=True):
            yield f"{one.name} is {version}, expected {one.specifier}"


def _version(name: str, versions: Mapping[str, str]) -> str | None:
    """The version of a package or of one that stands in for it."""
    name = canonicalize_name(name)
    if name in versions or name not in STAND_INS:
        return versions.get(name)
    return next((there for other, there in versions.items() if re.fullmatch(STAND_INS[name], other)), None)


def _install(package: metadata.Distribution, extra: str) -> str:
    """The command that brings an extra into this environment, from where slr-det itself came."""
    source = json.loads(package.read_text("direct_url.json") or "{}")
    brackets = f"[{extra}]" if extra else ""
    if source.get("dir_info", {}).get("editable"):
        folder = unquote(urlparse(source["url"]).path)
        command = f'cd "{folder}" && uv pip install -e ".{brackets}" -c constraints.txt'
    else:
        command = f'uv pip install "{DISTRIBUTION}{brackets}"'
    if os.access(sysconfig.get_path("purelib"), os.W_OK):
        return command
    return f"{command} (elsewhere: this environment is read-only)"
