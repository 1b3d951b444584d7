"""One training phase on all ranks: the group that they form for it, and the files that it starts from."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from slr_det.adapter import TrainJob
from slr_det.ranks.board import Board
from slr_det.ranks.files import described, fetch
from slr_det.ranks.place import Place

#: Between two exchanges of the ranks, rank 0 may write a checkpoint, or look through the data; a lost rank is noticed
#: otherwise.
_PATIENCE = timedelta(hours=2)


def work_of(job: TrainJob, resume: bool, training: str, files: Sequence[str | Path]) -> dict[str, Any]:
    """What rank 0 announces: the phase as plain data, with a description of the files that it starts from."""
    needed = [job.model, job.teacher, job.weights, *files]
    return {"job": job.to_dict(), "resume": resume, "training": training, "files": described(needed)}


def take_part(place: Place, board: Board, number: int, work: Mapping[str, Any]) -> None:
    """Do this rank's share of a phase. Ranks but the first work in a folder of their own, which goes afterwards."""
    job = TrainJob.from_dict(work["job"])
    device = torch.device("cpu") if job.device == "cpu" else torch.device("cuda", place.local_rank)
    with (
        _group(place, board, number, device),
        tempfile.TemporaryDirectory(prefix="slr-det-rank-") as scratch,
    ):
        here = fetch(work["files"], Path(scratch) / "files", device)
        if place.rank > 0:
            job = _moved(job, here, Path(scratch) / "phase")
        importlib.import_module(work["training"]).run(job, work["resume"], distributed=True)
        # Nobody leaves the group while another is in its last exchange.
        dist.all_reduce(torch.zeros(1, device=device))


def _moved(job: TrainJob, here: Mapping[str, Path], folder: Path) -> TrainJob:
    """The job with this rank's own files, and a folder that holds those of the phase that it is to find there."""
    folder.mkdir()
    for path, place in here.items():
        if Path(path).parent == Path(job.folder):
            (folder / Path(path).name).symlink_to(place.absolute())

    def local(name: str) -> str:
        return str(here.get(name, name))

    return replace(
        job,
        model=local(job.model),
        teacher=local(job.teacher),
        weights=local(job.weights),
        folder=str(folder),
    )


@contextlib.contextmanager
def _group(place: Place, board: Board, number: int, device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"phase-{number}", board.store),
        rank=place.rank,
        world_size=place.size,
        timeout=_PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
