"""`slr-det doctor` sees what is there and what is not, and says what to do; `slr-det` loads one verb at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import slr_det
from slr_det import toolbox
from slr_det.doctor import accelerators, folders, machine, packages
from slr_det.doctor.findings import Finding, document, healthy, size, table

MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n"


def system(root: Path, files: Mapping[str, str]) -> Path:
    """A machine's system files under ``root``."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_sizes_are_written_for_people() -> None:
    assert [size(n) for n in (12, 64 << 20, 15.5 * (1 << 30))] == ["12 bytes", "64 MB", "15.5 GB"]


def test_a_note_is_healthy_and_a_problem_is_not() -> None:
    note, problem = (
        Finding("a", "note", "seen", "do this"),
        Finding("b", "problem", "gone", "do that", {"n": 1}),
    )
    assert healthy([note]) and not healthy([note, problem])
    assert table([note, problem]).splitlines() == [
        "note     a  seen",
        "            -> do this",
        "PROBLEM  b  gone",
        "            -> do that",
    ]
    assert document([problem]) == {
        "ok": False,
        "findings": [
            {"name": "b", "verdict": "problem", "seen": "gone", "remedy": "do that", "facts": {"n": 1}}
        ],
    }


def test_memory_without_a_limit_is_the_machines(tmp_path: Path) -> None:
    root = system(
        tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}
    )
    found = machine.memory(root)
    assert found.verdict == "ok"
    assert found.facts == {"total": 16 << 30, "limit": None, "free": 8 << 30}


def test_the_tightest_cgroup_above_the_process_counts_and_files_in_its_cache_do_not(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/job/memory.max": "max\n",
            "sys/fs/cgroup/slice/memory.max": f"{2 << 30}\n",
            "sys/fs/cgroup/slice/memory.current": f"{1 << 30}\n",
            "sys/fs/cgroup/slice/memory.stat": f"anon 1\ninactive_file {512 << 20}\n",
        },
    )
    found = machine.memory(root)
    assert (found.verdict, found.facts["limit"], found.facts["free"]) == ("note", 2 << 30, 3 << 29)
    assert found.seen == "16.0 GB, limited to 2.0 GB, 1.5 GB free"
    assert "--memory" in found.remedy


def test_limits_of_cgroups_of_the_first_version_are_read(tmp_path: Path) -> None:
    """As Docker mounts them: the path is the host's, the container's own files are at the top."""
    root = system(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/cpuinfo": "model name\t: A processor\nflags\t\t: sse avx2\n",
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 << 30}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{1 << 30}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert machine.memory(root).facts == {"total": 16 << 30, "limit": 4 << 30, "free": 3 << 30}
    found = machine.cpu(root)
    assert (found.facts["model"], found.facts["flags"], found.facts["quota"]) == (
        "A processor",
        ["avx2"],
        0.5,
    )


def test_a_quota_below_the_cores_asks_for_fewer_threads_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = len(os.sched_getaffinity(0)) - 0.5
    root = system(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{int(quota * 100_000)} 100000\n"},
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.cpu(root).verdict == "note"
    assert f"OMP_NUM_THREADS={max(1, round(quota))}" in machine.cpu(root).remedy
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.cpu(root).verdict == "ok"
    system(root, {"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert machine.cpu(root).facts["quota"] is None


def test_a_system_that_tells_nothing_is_no_problem(tmp_path: Path) -> None:
    assert machine.cpu(tmp_path).verdict == "ok"
    assert machine.memory(tmp_path).verdict != "problem"
    assert machine.shared_memory(tmp_path) is None


def test_small_shared_memory_is_a_note_with_dockers_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(machine, "LOW_SHARED", free // 2)
    found = machine.shared_memory(tmp_path)
    assert found is not None and found.verdict == "ok"
    monkeypatch.setattr(machine, "LOW_SHARED", free * 2)
    found = machine.shared_memory(tmp_path)
    assert found is not None and found.verdict == "note" and "--shm-size" in found.remedy


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LITTLE", 1)
    monkeypatch.setattr(folders, "LEAST", 1)
    found = folders.folder("runs", tmp_path / "not" / "yet", "runs", "elsewhere")
    assert found.verdict == "ok" and found.facts["writable"] and not found.facts["exists"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(folders, "LITTLE", 1 << 80)
    assert folders.folder("runs", tmp_path, "runs", "elsewhere").verdict == "note"
    monkeypatch.setattr(folders, "LEAST", 1 << 80)
    full = folders.folder("runs", tmp_path, "runs", "elsewhere")
    assert full.verdict == "problem" and "elsewhere" in full.remedy


def test_a_folder_that_takes_no_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = folders.folder("runs", tmp_path / "file" / "runs", "runs go there", "choose another")
    assert found.verdict == "problem"
    assert "Not a directory" in found.seen and found.remedy == "choose another"


def versions(**changes: str | None) -> dict[str, str]:
    """The packages of this environment, with some changed or, by None, taken away."""
    changed = {name.replace("_", "-"): version for name, version in changes.items()}
    found = {**packages.installed(), **changed}
    return {name: version for name, version in found.items() if version is not None}


def by_name(findings: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}  # type: ignore[attr-defined]


def test_every_extra_of_the_package_has_a_line() -> None:
    findings = by_name(packages.check(packages.installed()))
    for extra in ("yolo", "lane", "pointpillars", "classify", "mmengine", "export", "openvino", "shrink"):
        assert f"extra {extra}" in findings
    assert {"extra dev", "extra docs"} & set(findings) == set()
    assert findings["packages"].verdict == "ok"


def test_an_absent_extra_gets_the_command_that_installs_it_and_is_a_problem_where_it_is_needed() -> None:
    without = versions(onnx=None, onnxruntime=None)
    found = by_name(packages.check(without))["extra export"]
    assert (found.verdict, found.seen, found.facts["present"]) == ("note", "absent", False)
    assert found.remedy == found.facts["install"]
    assert "uv pip install" in found.remedy and "[export]" in found.remedy
    assert by_name(packages.check(without, ["export"]))["extra export"].verdict == "problem"


def test_a_package_that_is_missing_or_of_a_wrong_version_is_named() -> None:
    found = by_name(packages.check(versions(onnx="1.0", onnxruntime="1.20")))["extra export"]
    assert found.seen == "onnx is 1.0, expected >=1.16"
    own = by_name(packages.check(versions(zstandard=None)))["packages"]
    assert (own.verdict, own.seen) == ("problem", "zstandard is missing")


def test_builds_under_other_names_count() -> None:
    others = versions(
        spconv=None, spconv_cu126="2.3.8", ultralytics_opencv_headless=None, ultralytics="8.4.1"
    )
    findings = by_name(packages.check(others))
    assert "spconv 2.3.8" in findings["extra pointpillars"].seen
    assert "ultralytics-opencv-headless 8.4.1" in findings["extra yolo"].seen


def test_the_opencv_that_needs_graphics_libraries_is_noted() -> None:
    assert "opencv" not in by_name(packages.check(versions(opencv_python=None)))
    found = by_name(packages.check(versions(opencv_python="4.11", opencv_python_headless="5.0.0.93")))[
        "opencv"
    ]
    assert found.verdict == "note" and "pip uninstall -y opencv-python" in found.remedy


@pytest.mark.parametrize(
    ("torch", "built", "verdict"),
    [
        ("2.13.0+cu130", "0.28.0+cu130", "ok"),
        ("2.13.0+cpu", "0.28.0+cu130", "problem"),
        ("2.13.0+cu130", "0.28.0+cpu", "problem"),
        ("2.13.0", "0.28.0", "ok"),
        ("2.13.0+cpu", None, "ok"),
    ],
)
def test_torchvision_has_to_be_of_torchs_build(torch: str, built: str | None, verdict: str) -> None:
    found = accelerators.torchvision_pair(torch, "0.28.0", built)
    assert found is not None and found.verdict == verdict
    assert bool(found.remedy) is (verdict == "problem")
    assert accelerators.torchvision_pair(torch, None, built) is None


def look(**changes: object) -> Finding:
    usual = {
        "available": False,
        "count": 0,
        "built_for": "13.0",
        "codes": [],
        "found": [],
        "present": False,
        "complaints": [],
    }
    return accelerators.gpus(**{**usual, **changes})  # type: ignore[arg-type]


H100 = accelerators.parse_query("NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 580.95\n")
GTX = accelerators.parse_query("NVIDIA GeForce GTX 1080, 8192, 8000, 6.1, 580.95\nbroken line\n")


def test_gpus_are_listed_and_none_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = look(available=True, count=1, found=H100, codes=["sm_80", "sm_90"], present=True)
    assert found.verdict == "ok"
    assert found.seen == "1: NVIDIA H100 80GB HBM3 (79.6 GB, 79.1 GB free), driver 580.95"
    assert found.facts["gpus"][0]["memory"] == 81559 << 20
    assert (look().verdict, look().seen) == ("ok", "none; runs use the CPU")
    assert look(available=True, count=2).seen == "2 that torch can use"


def test_a_gpu_that_torch_cannot_use_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    old = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). (Triggered at x)"
    found = look(present=True, complaints=[old])
    assert (
        found.verdict == "problem" and "found version 11040" in found.seen and "Triggered" not in found.seen
    )
    assert "driver" in found.remedy
    assert look(present=True, built_for=None).verdict == "note"
    found = look(available=True, count=1, found=GTX, codes=["sm_75", "sm_90", "compute_90"], present=True)
    assert found.verdict == "problem" and "6.1" in found.seen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = look(present=True)
    assert hidden.verdict == "ok" and "CUDA_VISIBLE_DEVICES" in hidden.seen


@pytest.mark.parametrize(
    ("capability", "codes", "runs"),
    [
        ("8.6", ["sm_80"], True),
        ("8.0", ["sm_86"], False),
        ("9.0", ["sm_80"], False),
        ("12.0", ["compute_90"], True),
        ("12.1", ["sm_120"], True),
        ("9.0", ["sm_90a"], True),
        ("6.1", ["nonsense"], False),
        ("[N/A]", ["sm_80"], True),
    ],
)
def test_code_runs_on_its_own_generation_and_ptx_on_later_ones(
    capability: str, codes: list[str], runs: bool
) -> None:
    assert accelerators.covered(capability, codes) is runs


PROGRAM = """
import json, sys
from slr_det.toolbox import main
code = main(["doctor", "--json", "--runs", sys.argv[1]])
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(loaded & {"ultralytics", "torchvision", "timm", "mmengine", "spconv", "cv2"})), file=sys.stderr)
sys.exit(code)
"""


def test_the_command_answers_in_json_and_imports_no_trainer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stderr) == []
    found = json.loads(done.stdout)
    names = [finding["name"] for finding in found["findings"]]
    assert names[:3] == ["slr-det", "python", "torch"]
    assert {"gpu", "cpu", "memory", "runs", "cache", "temporary", "packages", "extra yolo"} <= set(names)
    problems = [finding for finding in found["findings"] if finding["verdict"] == "problem"]
    assert "runs" in [finding["name"] for finding in problems]
    assert (found["ok"], done.returncode) == (False, 1)


def test_the_table_ends_with_what_it_comes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = toolbox.main(["doctor", "--runs", str(tmp_path)])
    shown = capsys.readouterr().out
    problems = sum(line.startswith("PROBLEM") for line in shown.splitlines())
    assert code == (1 if problems else 0)
    last = shown.splitlines()[-1]
    assert last == "no problem found" if not problems else last.startswith(str(problems))


def test_an_extra_that_does_not_exist_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert toolbox.main(["doctor", "--need", "yol"]) == 2
    assert capsys.readouterr().err == "error: --need yol: no such extra (did you mean 'yolo'?)\n"


def test_help_lists_every_verb_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        toolbox.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in toolbox.VERBS)
    program = "import sys; from slr_det.toolbox import VERBS; print([v.module in sys.modules for v in VERBS.values()])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "True" not in done.stdout and "False" in done.stdout, done.stderr
    with pytest.raises(SystemExit):
        toolbox.main(["--version"])
    assert capsys.readouterr().out == f"slr-det {slr_det.__version__}\n"


@pytest.mark.parametrize("name", toolbox.VERBS)
def test_every_verb_teaches_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        toolbox.main([name, "--help"])
    assert ended.value.code == 0
    assert f"slr-det {name}" in capsys.readouterr().out
