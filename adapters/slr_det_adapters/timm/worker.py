"""One of several training processes: ``torchrun -m slr_det_adapters.timm.worker JOB.json``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from slr_det.adapter import TrainJob
from slr_det.errors import SlrDetError
from slr_det_adapters.timm.arguments import Arguments
from slr_det_adapters.timm.training import run


def main(file: str) -> int:
    """Run the job; a one-line error goes to ``error.txt`` beside it, where the process that waits finds it."""
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    job = TrainJob.from_dict(content["job"])
    try:
        run(job, Arguments.read(job.args), content["resume"])
    except SlrDetError as error:
        if os.environ.get("RANK", "0") == "0":
            (Path(file).parent / "error.txt").write_text(str(error), encoding="utf-8")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
