"""What the machine, or the container's share of it, has: processor, memory, shared memory."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from slr_det.doctor.findings import Finding, size

LOW_MEMORY = 3 << 30  # the embedded YOLO run peaks at about 2 GB
LOW_SHARED = 1 << 30  # a loader with some workers and large batches passes hundreds of MB through it
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "asimd")


def cpu(root: Path = Path("/")) -> Finding:
    """The processor, its cores that this process may use, and a container's limit on them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_cpu_quotas(root), default=None)
    text = _text(root / "proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    name = named.group(1) if named else platform.processor() or platform.machine()
    words = set(text.split())
    flags = [flag for flag in _FLAGS if flag in words]
    facts = {"model": name, "machine": platform.machine(), "cores": usable, "quota": quota, "flags": flags}
    seen = f"{name}, {usable} {'core' if usable == 1 else 'cores'}"
    seen += f" ({', '.join(flags)})" if flags else ""
    if quota is None or quota >= usable:
        return Finding("cpu", "ok", seen, facts=facts)
    threads = max(1, round(quota))
    if os.environ.get("OMP_NUM_THREADS", "").isdigit() and int(os.environ["OMP_NUM_THREADS"]) <= threads:
        return Finding("cpu", "ok", f"{seen}, of which {quota:g} may be used", facts=facts)
    return Finding(
        "cpu",
        "note",
        f"{seen}, of which the container may use {quota:g}",
        f"torch starts a thread for every core and they wait for each other: set OMP_NUM_THREADS={threads}",
        facts,
    )


def memory(root: Path = Path("/")) -> Finding:
    """Memory in all and free, under the limit of the cgroup that this process is in."""
    table = {
        key: int(kilobytes) << 10
        for key, kilobytes in re.findall(
            r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), flags=re.MULTILINE
        )
    }
    total = table.get("MemTotal") or _pages()
    if total is None:
        return Finding("memory", "note", "this system does not say how much there is")
    free = table.get("MemAvailable")
    limits = [limit for limit in _memory_limits(root) if limit[0] < total]
    for limit, used in limits:
        free = min(limit - used, limit if free is None else free)
    allowed = min([total, *(limit for limit, _ in limits)])
    facts = {"total": total, "limit": allowed if limits else None, "free": free}
    seen = f"{size(total)}" + (f", limited to {size(allowed)}" if limits else "")
    seen += f", {size(free)} free" if free is not None else ""
    if allowed >= LOW_MEMORY:
        return Finding("memory", "ok", seen, facts=facts)
    remedy = "training needs about 3 GB and more; a smaller batch=... needs less"
    remedy += ", or raise the limit (docker run --memory)" if limits else ""
    return Finding("memory", "note", seen, remedy, facts)


def shared_memory(root: Path = Path("/")) -> Finding | None:
    """The size of ``/dev/shm``, through which loaders' workers pass batches; None where a system has none."""
    folder = root / "dev/shm"
    if not folder.is_dir():
        return None
    found = os.statvfs(folder)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    facts = {"total": total, "free": free}
    seen = f"{size(total)}, {size(free)} free"
    if free >= LOW_SHARED:
        return Finding("/dev/shm", "ok", seen, facts=facts)
    remedy = (
        "workers of data loaders need more: docker run --shm-size=4g (or --ipc=host), or train with workers=0"
    )
    return Finding("/dev/shm", "note", seen, remedy, facts)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the cgroups that bind this process, its own first and then those above; version 2, then version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, names, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            top = root / "sys/fs/cgroup"
        elif controller in names.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        inner = top / path.lstrip("/")
        while inner != top and top in inner.parents:
            yield inner
            inner = inner.parent
        yield top


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limits in bytes, each with what is used of it; the cache of files that can be dropped is not counted."""
    for group in _groups(root, "memory"):
        for names in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = (_text(group / name).strip() for name in names[:2])
            if limit.isdigit():
                cached = re.search(rf"^{names[2]} (\d+)$", _text(group / "memory.stat"), flags=re.MULTILINE)
                droppable = int(cached.group(1)) if cached else 0
                yield int(limit), max(0, int(used) - droppable) if used.isdigit() else 0


def _cpu_quotas(root: Path) -> Iterator[float]:
    """How many cores' worth of time each cgroup may have."""
    for group in _groups(root, "cpu"):
        words = _text(group / "cpu.max").split() or [
            _text(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        ]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            yield int(words[0]) / int(words[1])


def _pages() -> int | None:
    """Bytes of memory as POSIX systems without /proc tell them."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _text(file: Path) -> str:
    """The content of a file of the system, empty where it is missing or cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
