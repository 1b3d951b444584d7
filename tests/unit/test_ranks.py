"""Several ranks: where a process finds its place, what the ranks tell each other, and an end for one that is stuck."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from slr_det.errors import ConfigError, SlrDetError
from slr_det.ranks import team
from slr_det.ranks.board import Board
from slr_det.ranks.files import described
from slr_det.ranks.place import Place
from slr_det.ranks.start import together
from slr_det.ranks.team import Team, is_broken

TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_process_that_no_launcher_started_is_alone() -> None:
    assert Place.from_environment({}) is None
    for name in TWO:
        assert Place.from_environment({key: value for key, value in TWO.items() if key != name}) is None
    assert Place.from_environment({**TWO, "RANK": "0", "WORLD_SIZE": "1"}) is None


def test_the_place_is_what_torchrun_says() -> None:
    place = Place.from_environment(TWO)
    assert place == Place(rank=1, size=2, local_rank=1, local_size=2, node=0, nodes=1)
    assert place is not None and place.launcher == "torchrun --nproc-per-node 2 -m"
    nodes = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
    }
    place = Place.from_environment({**TWO, **nodes})
    assert place == Place(rank=5, size=8, local_rank=1, local_size=4, node=1, nodes=2)
    assert place is not None and place.launcher == "torchrun --nnodes 2 --nproc-per-node 4 ... -m"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "one"}, "RANK=one, expected a whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1, expected a whole number"),
        ({"RANK": "2"}, "RANK=2 and WORLD_SIZE=2, expected a rank from 0 to 1"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Place.from_environment({**TWO, **changed})


def test_every_rank_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(rank=0, size=4, local_rank=0, local_size=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place.device("") == place.device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="device is '0,1', but each of the 4 ranks"):
        place.device("0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert place.device("") == "" and place.device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(
        ConfigError, match="4 ranks were started on a machine with 3 GPUs; use --nproc-per-node 3"
    ):
        place.device("")


def test_a_command_that_is_no_rank_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert together(lambda: 7) == 7


def test_a_bad_variable_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**TWO, "RANK": "x"}.items():
        monkeypatch.setenv(name, value)
    assert together(lambda: 0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the environment has RANK=x")


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))


def client(server: TCPStore) -> TCPStore:
    return TCPStore(
        "127.0.0.1", server.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20)
    )


def test_the_ranks_read_what_others_wrote(server: TCPStore) -> None:
    first, second = Board(client(server), 0, 2), Board(client(server), 1, 2)
    assert second.announced(1) is None and second.ended() is None and not first.anyone_left()
    first.announce(1, {"data": "digits"})
    assert second.announced(1) == {"data": "digits"} and second.announced(2) is None
    for number in (0, 1):
        first.beat(number)
        second.beat(number + 5)
    assert first.beats([0, 1]) == [b"1", b"6"]
    second.leave("error", "parameter 'a' holds a NaN")
    second.leave("signal")  # what was said first stays
    assert first.anyone_left() and first.left() == {1: {"why": "error", "text": "parameter 'a' holds a NaN"}}
    first.end(1)
    assert second.ended() == 1
    assert first.acknowledge() == 0 and second.acknowledge() == 1 and first.acknowledge() == 1
    assert Board.another(first).announced(1) == {"data": "digits"}


def test_ranks_that_do_not_come_are_one_line(monkeypatch: pytest.MonkeyPatch, server: TCPStore) -> None:
    monkeypatch.setattr("slr_det.ranks.board.JOINING", 1)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    with pytest.raises(
        SlrDetError, match=rf"rank 0 could not meet the other 2 ranks at 127.0.0.1:{server.port}"
    ):
        Board.join(Place(rank=0, size=3, local_rank=0, local_size=3))


def test_a_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch, server: TCPStore) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    with pytest.raises(SlrDetError, match=rf"rank 0 cannot listen at 127.0.0.1:{server.port}, which another"):
        Board.join(Place(rank=0, size=2, local_rank=0, local_size=2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_rank_that_waits_for_others(number: signal.Signals) -> None:
    # A shell starts what runs behind it with SIGINT ignored, and so would be whatever that starts.
    code = f"import signal; signal.signal({int(number)}, signal.SIG_DFL); from slr_det.ranks import Place; "
    code += "from slr_det.ranks.board import Board; print('.', flush=True); "
    code += "Board.join(Place(rank=0, size=2, local_rank=0, local_size=2))"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.read(1) == b"."
        time.sleep(1)
        process.send_signal(number)
        assert process.wait(5) == -number
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(("lives", "ends", "code"), [(True, 1, 1), (True, None, 2), (False, None, None)])
def test_a_first_rank_that_lives_and_is_stuck_is_not_called_lost(
    lives: bool, ends: int | None, code: int | None, server: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended by its own watch, later than the others wait for it, and says so."""
    monkeypatch.setattr(team, "_LEAVING", 0.6)
    first, second = Board(server, 0, 2), Board(client(server), 1, 2)
    first.beat(0)
    stopped = threading.Event()

    def live() -> None:
        number = 0
        while lives and not stopped.wait(0.1):
            first.beat(number := number + 1)
            if ends is not None and number == 3:
                first.end(ends)

    beating = threading.Thread(target=live)
    beating.start()
    try:
        assert Team(Place(1, 2, 1, 2), second).end_of_first() == code
    finally:
        stopped.set()
        beating.join()


def test_files_are_described_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "dense.pt"
    file.write_bytes(b"weights")
    found = described([file, tmp_path / "missing.pt", "", str(file), "digits"])
    assert found == [{"path": str(file), "size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}]


def test_a_lost_connection_is_told_from_a_mistake() -> None:
    assert is_broken(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Read error"))
    assert is_broken(RuntimeError("Connection closed by peer [127.0.0.1]:2843"))
    assert is_broken(torch.distributed.DistNetworkError("failed to recv, got 0 bytes"))
    assert not is_broken(RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"))
    assert not is_broken(ValueError("nccl"))


# Rank 1, which has been given work and waits in C for what never comes, as for a GPU: no handler of Python's runs.
STUCK = """\
import ctypes, pathlib, sys
from slr_det.ranks import start, watch
watch.PERIOD, watch.SILENCE, watch.GRACE = 0.1, 8, 1.0
def stuck(*ignored):
    lock = ctypes.create_string_buffer(64)
    pathlib.Path(sys.argv[1]).touch()
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)
start.take_part = stuck
sys.exit(start.together(lambda: 0))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="locks a mutex of the C library twice")
@pytest.mark.parametrize(
    "how",
    ["signal", pytest.param("silence", marks=pytest.mark.slow), pytest.param("end", marks=pytest.mark.slow)],
)
def test_a_rank_that_is_stuck_ends_with_one_line(how: str, server: TCPStore, tmp_path: Path) -> None:
    store = torch.distributed.PrefixStore("slr_det-0", client(server))
    first = Board(store, 0, 2)
    first.beat(0)
    first.announce(1, {"hint": "continue with: --resume runs/run"})
    place = {**TWO, "MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path / "stuck")],
        env={**os.environ, **place, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        number = 0
        while process.poll() is None:
            told = (tmp_path / "stuck").exists()
            if told and how == "signal":
                process.send_signal(signal.SIGTERM)
                how = "signalled"
            elif told and how == "end":
                first.end(2)
                how = "ended"
            if not told or how != "silence":
                number += 1
                first.beat(number)
            time.sleep(0.05)
        said = process.stderr.read() if process.stderr is not None else ""
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 2
    assert said == (
        "error: rank 1: stopped while it waited for another rank; continue with: --resume runs/run\n"
    )
    if how == "signalled":
        assert first.left()[1]["why"] == "signal"
