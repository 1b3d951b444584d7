"""One of several training processes: ``python -m slr_det_adapters.mmengine.worker FOLDER``, with ``job.json`` in it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from slr_det.adapter import TrainJob
from slr_det.errors import SlrDetError
from slr_det_adapters.supervising import follow_parent, report_error


def main(folder: str) -> int:
    """Run the job; what goes wrong is left in the folder, where the process that waits finds it."""
    follow_parent()
    content = json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))
    job = TrainJob.from_dict(content["job"])
    try:
        training = importlib.import_module(content["training"])
        with _process_group(job.device):
            training.run(job, content["resume"], distributed=True)
    except SlrDetError as error:
        report_error(Path(folder), int(os.environ["RANK"]), error)
        return 2
    except Exception:
        report_error(Path(folder), int(os.environ["RANK"]), traceback.format_exc())
        return 1
    return 0


@contextlib.contextmanager
def _process_group(device: str) -> Iterator[None]:
    """Join the other processes, before anything is built that asks for its share of the data."""
    if device == "cpu":
        dist.init_process_group("gloo")
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    try:
        yield
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
