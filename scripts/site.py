"""What the site of the documents has besides docs/: hooks that mkdocs calls, see mkdocs.yml."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

# Pages of the repository that are read where they are, and also belong on the site.
PROJECT = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "third_party/README.md": "project/third-party.md",
}
BACK = {site: source for source, site in PROJECT.items()}
# Modules whose members are described one by one; the rest of a package stands behind its __init__.
ADAPTERS = ("slr_det_adapters.mmengine",)
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
ROLE = re.compile(r":(?:class|func|mod|meth|attr|data|exc):<code>~?")
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the navigation: the reference, and pages that it does not name yet."""
    nav = config.nav or []
    _section(nav, "Reference").extend({name: _reference(name)} for name in _modules())
    named = set(_leaves(nav))
    for path in sorted(Path(config.docs_dir).rglob("*.md")):
        page = path.relative_to(config.docs_dir).as_posix()
        if page not in named:
            _section(nav, "Results" if page.startswith("results/") else "How to").append(page)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the project, those of the reference, and the files that pages link to outside docs/."""
    for source, target in PROJECT.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=content))
    for name in _modules():
        files.append(File.generated(config, _reference(name), content=_module_page(name)))
    linked = {
        path
        for file in list(files)
        if file.src_uri.endswith(".md")
        for target, _ in LINK.findall(file.content_string)
        if (path := _in_repository(file.src_uri, target))
        and path not in PROJECT
        and not path.startswith("docs/")
    }
    for path in sorted(linked):
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to where the site has what they name."""
    here = page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        target, anchor = found.group(1), found.group(2) or ""
        path = _in_repository(here, target)
        if path is None:
            return found.group(0)
        elsewhere = PROJECT.get(path, f"repository/{path}")
        uri = path.removeprefix("docs/") if path.startswith("docs/") else elsewhere
        return os.path.relpath(uri, PurePosixPath(here).parent).replace(os.sep, "/") + anchor

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn equations into MathML, and the roles of docstrings into plain names."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found.group(1) == "div" else "inline"
        # The converter does not know the command tag, and would put the number against the equation.
        source = re.sub(r"\\tag\{(.*?)\}", r"\\qquad (\1)", _unescaped(found.group(2)).strip())
        return str(convert(source, display=display))

    return ROLE.sub("<code>", MATH.sub(drawn, html))


def _section(nav: list[Any], title: str) -> list[Any]:
    for item in nav:
        if isinstance(item, dict) and title in item:
            found: list[Any] = item[title]
            return found
    raise KeyError(f"mkdocs.yml: nav has no section {title!r}")


def _leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [leaf for part in parts for leaf in _leaves(part)]


def _modules() -> list[str]:
    """Every module and package right below slr_det, and the adapters that are used from Python."""
    return [f"slr_det.{name}" for name in _parts(ROOT / "slr_det")] + list(ADAPTERS)


def _parts(package: Path) -> list[str]:
    """The public modules and packages right below a package, compiled ones aside."""
    modules = [file.stem for file in package.glob("*.py")] + [
        file.parent.name for file in package.glob("*/__init__.py")
    ]
    return sorted(name for name in modules if not name.startswith("_"))


def _reference(name: str) -> str:
    return f"reference/{name}.md"


def _module_page(name: str) -> str:
    """The package itself where it says what it exports, else each of its modules."""
    folder = ROOT / ("adapters" if name.startswith("slr_det_adapters") else "") / name.replace(".", "/")
    whole = [name]
    if (folder / "__init__.py").is_file() and "__all__" not in (folder / "__init__.py").read_text(
        encoding="utf-8"
    ):
        whole += [f"{name}.{part}" for part in _parts(folder)]
    parts = [f"---\ntitle: {name}\n---\n\n# `{name}`\n\n::: {name}"]
    parts += [f"## `{module}`\n\n::: {module}\n    options: {{heading_level: 3}}" for module in whole[1:]]
    return "\n\n".join(parts) + "\n"


def _in_repository(page: str, target: str) -> str | None:
    """Path in the repository of what a page links to; None for links to elsewhere."""
    if "://" in target or target.startswith(("mailto:", "/", "<")):
        return None
    source = PurePosixPath(BACK.get(page, f"docs/{page}"))
    path = os.path.normpath(source.parent / target).replace(os.sep, "/")
    return None if path.startswith("..") else path


def _unescaped(text: str) -> str:
    for code, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(code, sign)
    return text
