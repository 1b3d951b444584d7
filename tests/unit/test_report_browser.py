"""The page that compares runs in a real browser: sorting, hovering, keys, hiding, themes, a phone's width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from report_example import make_report

from slr_det.report.html import page, read_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--virtual-time-budget=5000",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)

Drive = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for name, methods in (("shapes", ("slr", "admm")), ("other", ("gradual",))):
        folder = tmp_path_factory.mktemp("runs") / name
        folder.mkdir()
        (folder / "report.json").write_text(
            json.dumps(make_report(methods) | {"name": name}), encoding="utf-8"
        )
        folders.append(folder)
    return folders


@pytest.fixture
def drive(runs: list[Path], tmp_path: Path) -> Drive:
    """Open the page in Chromium, run a script in it, and give back the object that the script leaves in ``out``."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (Debian: apt install chromium)")

    def act(script: str, size: str = "1280,900") -> dict[str, Any]:
        probe = (
            "<script>addEventListener('load', () => { const out = {}; window.onerror = (e) => { out.error = e; };"
            f"{script}\n const p = document.createElement('pre'); p.id = 'probe'; p.textContent = JSON.stringify(out);"
            " document.body.append(p); });</script></body>"
        )
        file = tmp_path / "page.html"
        file.write_text(page(read_runs(runs)).replace("</body>", probe), encoding="utf-8")
        command = [
            browser,
            *FLAGS,
            f"--window-size={size}",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
        ]
        ran = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="probe">(.*?)</pre>', ran.stdout, flags=re.DOTALL)
        assert found is not None, ran.stderr[-2000:]
        out: dict[str, Any] = json.loads(unescape(found.group(1)))
        assert "error" not in out, out["error"]
        return out

    return act


def test_a_click_on_a_title_sorts_by_number_and_leaves_what_is_missing_last(drive: Drive) -> None:
    out = drive("""
        const table = document.querySelector("table");
        const column = (title) => [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.startsWith(title));
        const read = (c) => [...table.tBodies[0].rows].map((row) => row.cells[c].textContent);
        const click = (c) => table.tHead.rows[0].cells[c].querySelector("button").click();
        const hard = column("hard-pruned"), method = column("method");
        out.before = read(hard);
        click(hard); out.down = read(hard); out.said = table.tHead.rows[0].cells[hard].getAttribute("aria-sort");
        click(hard); out.up = read(hard);
        click(method); out.methods = read(method);
        out.cleared = table.tHead.rows[0].cells[hard].getAttribute("aria-sort");
        table.tBodies[0].rows[0].cells[hard].textContent = "";
        delete table.tBodies[0].rows[0].cells[hard].dataset.value;
        click(hard); out.missing = read(hard);
        click(hard); out.still = read(hard);
    """)
    numbers = sorted(out["before"], key=float)
    assert len(set(numbers)) == 3
    assert (out["up"], out["down"], out["said"]) == (numbers, numbers[::-1], "descending")
    assert (out["methods"], out["cleared"]) == (["admm", "gradual", "slr"], "none")
    assert out["missing"][-1] == out["still"][-1] == ""


def test_hovering_shows_the_numbers_of_the_nearest_iteration(drive: Drive) -> None:
    out = drive("""
        const figure = [...document.querySelectorAll(".chart")].find((f) => f.textContent.startsWith("Loss"));
        const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
        const at = (share) => svg.dispatchEvent(new PointerEvent("pointermove",
            { clientX: box.left + box.width * share, clientY: box.top + 50, pointerType: "mouse" }));
        const tip = figure.querySelector(".tip");
        at(0.97);
        const rows = [...tip.querySelectorAll("div")].map((d) => d.textContent);
        out.last = [tip.querySelector("strong").textContent, ...rows];
        const t = tip.getBoundingClientRect(), f = figure.getBoundingClientRect();
        out.inside = t.left >= f.left && t.right <= f.right;
        svg.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
        out.gone = tip.hidden;
        const key = (name) => svg.dispatchEvent(new KeyboardEvent("keydown", { key: name, cancelable: true }));
        key("Home"); key("ArrowRight");
        out.second = tip.querySelector("strong").textContent;
        out.aloud = document.getElementById("said").textContent;
        key("Escape"); out.escaped = tip.hidden;
    """)
    history = make_report(("slr", "admm"))["history"]
    assert out["last"][0] == "iteration 12, epoch 11"
    assert f"shapes slr{history[11]['objective']:.4g}" in [
        line.replace(" slr ", " slr") for line in out["last"][1:]
    ]
    assert len(out["last"]) == 4 and out["inside"] and out["gone"] and out["escaped"]
    assert out["second"] == "iteration 2, epoch 1"
    assert out["aloud"].startswith("iteration 2, epoch 1: ")


def test_a_series_can_be_hidden_everywhere(drive: Drive) -> None:
    out = drive("""
        const button = document.querySelectorAll(".legend button")[1];
        const lines = [...document.querySelectorAll('g.line[data-key="1"]')];
        const seen = () => lines.map((g) => getComputedStyle(g).display);
        out.before = seen(); button.click(); out.after = seen(); out.pressed = button.getAttribute("aria-pressed");
        button.click(); out.again = seen();
    """)
    assert set(out["after"]) == {"none"} and out["pressed"] == "false"
    assert "none" not in out["before"] and out["again"] == out["before"]


def test_themes_change_the_paper_and_paper_shows_everything(drive: Drive) -> None:
    out = drive("""
        const theme = document.getElementById("theme"), paper = () => getComputedStyle(document.body).backgroundColor;
        out.papers = [];
        for (let i = 0; i < 3; i++) { theme.click(); out.papers.push([theme.textContent, paper()]); }
        out.closed = [...document.querySelectorAll("details")].filter((d) => d.open).length;
        dispatchEvent(new Event("beforeprint"));
        out.open = [...document.querySelectorAll("details")].every((d) => d.open);
        const loaded = performance.getEntriesByType("resource").map((r) => r.name);
        out.requests = loaded.filter((name) => !name.startsWith("data:"));
    """)
    papers = dict(out["papers"])
    assert papers["Theme: light"] == "rgb(255, 255, 255)" and papers["Theme: dark"] == "rgb(21, 23, 27)"
    assert out["closed"] == 0 and out["open"] is True
    assert out["requests"] == []


def test_a_phone_does_not_scroll_sideways(drive: Drive) -> None:
    script = """
        out.width = innerWidth; out.needed = document.documentElement.scrollWidth;
        out.charts = [...document.querySelectorAll(".chart")].map((c) => c.getBoundingClientRect().right);
    """
    out = drive(script, size="390,844")
    assert out["width"] <= 500  # Chromium's windows are no narrower
    assert out["needed"] <= out["width"] and max(out["charts"]) <= out["width"]
