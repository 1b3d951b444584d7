"""A trainer of ultralytics on several GPUs, a process each: started here, so that they end together and in one line.

Its own launcher waits for torchrun, which prints a page where a process fails, and leaves processes behind where it is
killed itself.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralytics.utils import LOCAL_RANK, RANK
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_command
from ultralytics.utils.torch_utils import unset_deterministic

from slr_det.errors import ConfigError, SlrDetError
from slr_det_adapters.supervising import follow_parent, report_error, run_processes

#: Where a process of several leaves what it failed on.
_REPORTS = "SLR_DET_REPORTS"


def begin_process(verbose: bool) -> None:
    """Bind this process to the one that started it, where it is one of several; as quiet as that one is."""
    if LOCAL_RANK != -1 and _REPORTS in os.environ:
        follow_parent()
        if not verbose:
            logging.getLogger("ultralytics").setLevel(logging.WARNING)


def in_process(train: Callable[[], None]) -> None:
    """Train in this process; one of several leaves an error of ours to the process that waits for it."""
    if LOCAL_RANK == -1 or _REPORTS not in os.environ:
        train()
        return
    try:
        train()
    except SlrDetError as error:
        report_error(Path(os.environ[_REPORTS]), RANK, error)
        sys.exit(2)


def in_processes(trainer: Any) -> None:
    """Train in as many processes as the trainer has devices.

    Raises:
        ConfigError: The batch is left to be found, which takes one GPU.
        SlrDetError: What a process failed on, or that one was killed.
    """
    if trainer.args.batch < 1:
        raise ConfigError(
            f"batch is {trainer.args.batch}, but several GPUs need a whole number: a multiple of theirs"
        )
    trainer.args.rect = False  # as the trainer itself has it there
    command, file = generate_ddp_command(trainer)
    try:
        with tempfile.TemporaryDirectory(prefix="slr-det-job-") as reports:
            environment = {**os.environ, _REPORTS: reports}
            environment.setdefault("OMP_NUM_THREADS", "1")
            # Without torchrun, of which the command is made: interpreter and file remain.
            run_processes(
                [command[0], file], environment, trainer.world_size, Path(reports), str(trainer.save_dir)
            )
    finally:
        ddp_cleanup(trainer, file)
        unset_deterministic()
