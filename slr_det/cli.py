"""What every command line shares: verbs, one-line errors, exit codes, interrupts."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from tqdm import tqdm

from slr_det.errors import ConfigError, SlrDetError

OK, BELOW_MINIMUM, FAILED = 0, 1, 2


class Interrupted(BaseException):
    """The process was asked to stop (SIGTERM), as by a job scheduler or ``docker stop``."""


def run(action: Callable[[], int], *, on_interrupt: Callable[[], str], memory: str = "batch=...") -> int:
    """Run a command and turn what goes wrong into one line on stderr and exit code 2.

    Args:
        action: The command; returns its exit code.
        on_interrupt: Gives the line to print on Ctrl-C or SIGTERM: what is saved and how to go on.
        memory: What to lower when memory runs out.
    """
    previous = signal.getsignal(signal.SIGTERM)
    if not callable(previous):  # one of several ranks has a handler already
        signal.signal(signal.SIGTERM, _raise_interrupted)
    try:
        return action()
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
    except SlrDetError as error:
        complain(str(error))
    except (KeyboardInterrupt, Interrupted):
        complain(on_interrupt())
    except MemoryError:
        complain(f"out of memory; lower {memory}")
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            _complain_of_a_bug(error)
        else:
            complain(f"out of memory; lower {memory} ({str(error).splitlines()[0][:120]})")
    except BrokenPipeError:
        complain("the output was closed before everything was written")
    except OSError as error:
        complain(str(error))
    except Exception as error:
        _complain_of_a_bug(error)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return FAILED


def complain(line: str) -> None:
    """Print ``error: line`` on stderr, on a line of its own below any progress bar that was left open."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _complain_of_a_bug(error: Exception) -> None:
    """The traceback, for the report of the bug; exit code 1, which Python would give, is a verdict on a model."""
    traceback.print_exception(error)
    first = str(error).splitlines()[:1]
    complain(
        f"{type(error).__name__}: {''.join(first)} (a bug of slr_det: please report it with the lines above)"
    )


def _raise_interrupted(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted


def with_default_verb(arguments: Sequence[str], verbs: Sequence[str], default: str) -> list[str]:
    """Put the default verb in front where the first argument is not a verb and does not ask for help."""
    if arguments and (arguments[0] in verbs or arguments[0] in ("-h", "--help", "--version")):
        return list(arguments)
    return [default, *arguments]
