"""The site of the documents: built strictly, complete, and without a need for the network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BUILD = ["build", "--strict"]


def need_mkdocs() -> None:
    missing = [
        name
        for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (uv pip install -e '.[docs]')")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_mkdocs()
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", *BUILD, "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.slow
def test_every_document_is_a_page_and_every_module_has_its_reference(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        address = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / address).is_file(), address
        assert address == "index.html" or f'href="{address}"' in home, f"{address} is not in the navigation"
    for module in (ROOT / "slr_det").glob("[!_]*.py"):
        assert (site / "reference" / f"slr_det.{module.stem}.html").is_file()
    engine = (site / "reference" / "slr_det.engine.html").read_text(encoding="utf-8")
    assert 'id="slr_det.engine.Engine.hard_prune"' in engine
    assert ":class:" not in engine and ":func:" not in engine


@pytest.mark.slow
def test_nothing_on_the_site_is_loaded_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r"<(?:script|img|iframe|source|audio|video|embed|object)\b[^>]*?\b(?:src|data)=[\"']?(?:https?:)?//"
    )
    linked = re.compile(
        r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*href=[\"']?(?:https?:)?//"
    )
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not loading.search(text) and not linked.search(text), page
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", text), style


@pytest.mark.slow
def test_equations_are_mathml_with_their_numbers(site: Path) -> None:
    page = (site / "concepts.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<math[^>]*display="block".*?</math>', page, flags=re.DOTALL)
    source = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert len(blocks) == source.count("$$") // 2 >= 8
    words = [re.sub(r"\s", "", unescape(re.sub(r"<[^>]*>", "", block))) for block in blocks]
    for number in re.findall(r"\\tag\{(.*?)\}", source):
        assert any(word.endswith(f"({number.replace(' ', '')})") for word in words), number
    assert "arithmatex" not in page and "$$" not in page


@pytest.mark.slow
def test_links_out_of_the_docs_lead_to_copies(site: Path) -> None:
    report = (site / "report.html").read_text(encoding="utf-8")
    assert 'href="repository/slr_det/report.schema.json"' in report
    copy = site / "repository" / "slr_det" / "report.schema.json"
    assert copy.read_bytes() == (ROOT / "slr_det" / "report.schema.json").read_bytes()
    readme = (site / "project" / "readme.html").read_text(encoding="utf-8")
    assert 'href="../export.html"' in readme and 'href="contributing.html"' in readme


def test_a_broken_link_fails_the_command_of_the_makefile(tmp_path: Path) -> None:
    need_mkdocs()
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("bin/mkdocs ", 1)[1].split("#", 1)[0]
    assert recipe.split() == BUILD
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nvalidation: {anchors: warn}\n", encoding="utf-8")
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[there](#nowhere) [here](#a)\n", encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", *recipe.split()]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "#nowhere" in ran.stderr


def test_every_pin_of_the_site_lies_in_the_supported_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for requirement in map(Requirement, project["optional-dependencies"]["docs"]):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_navigation_names_pages_that_exist() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": ([\w/-]+\.md)$", text, flags=re.MULTILINE)
    made = {"project/readme.md", "project/contributing.md", "project/changelog.md", "project/third-party.md"}
    assert len(named) > 20
    assert [page for page in named if page not in made and not (ROOT / "docs" / page).is_file()] == []
