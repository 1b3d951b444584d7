"""Runs contracts in a process of their own: ``python -m slr_det.upstream.child ADAPTER CHECKOUT FOLDER FILE NAME ...``.

Each contract adds a line of JSON to FILE when it is done. The process may end in any way: its parent watches it.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slr_det.errors import MissingExtraError, SlrDetError
from slr_det.upstream.project import Upstream, upstreams


def main(arguments: Sequence[str]) -> int:
    """Run the named contracts in order."""
    name, checkout, folder, file, *wanted = arguments
    (upstream,) = upstreams([name])
    for contract in wanted:
        found = run(upstream, contract, Path(checkout), Path(folder))
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found) + "\n")
    return 0


def run(upstream: Upstream, name: str, checkout: Path, folder: Path) -> dict[str, Any]:
    """Run one contract, whatever happens; ``name``, ``verdict``, ``says`` and ``seconds`` of a line."""
    (contract,) = (contract for contract in upstream.contracts if contract.name == name)
    began = time.monotonic()
    try:
        verdict, says = "ok", contract.run(checkout, folder)
    except MissingExtraError as error:
        verdict, says = "unavailable", str(error)
    except SlrDetError as error:
        verdict, says = "failed", str(error)
    except Exception as error:  # whatever upstream's code raises is a finding, not an accident
        traceback.print_exception(error)
        verdict, says = "failed", described(error, checkout)
    seconds = time.monotonic() - began
    return {"name": name, "verdict": verdict, "says": " ".join(says.split()), "seconds": seconds}


def described(error: BaseException, checkout: Path) -> str:
    """An error on one line, with the place in the checkout that it was raised in or through last."""
    text = " ".join(str(error).split())
    inside = [
        f"{Path(frame.filename).resolve().relative_to(checkout.resolve())}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().is_relative_to(checkout.resolve())
    ]
    place = f", at {inside[-1]}" if inside else ""
    return f"{type(error).__name__}: {text:.240}{place}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
