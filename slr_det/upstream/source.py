"""What a name in somebody's Python sources is, found by reading and without running any of them.

Imports are followed within the sources. Whatever cannot be known by reading (a name from an installed package, the
result of a call, a decorator's new class) is :class:`Opaque`: there, and nothing is said of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_DEPTH = 20  # imports of imports: beyond that they go in circles
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module: its ``file``, relative to the checkout, and its syntax tree; a folder without code has neither."""

    name: str
    file: str
    tree: ast.Module | None


@dataclass(frozen=True)
class Definition:
    """A function or class: where it is, and the member of which class."""

    module: Module
    node: _Function | ast.ClassDef
    owner: ast.ClassDef | None = None

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.module.file}:{self.node.lineno}"


@dataclass(frozen=True)
class Opaque:
    """A name that is there, and of which no more can be read."""


@dataclass(frozen=True)
class Absent:
    """A name that is not there, said as a sentence without its end; ``near`` are names that are."""

    says: str
    wanted: str
    near: tuple[str, ...] = ()


Found = Definition | Module | Opaque | Absent


@dataclass(frozen=True)
class Parameters:
    """The parameters of a function or class, without ``self``.

    Attributes:
        positional: Those that can be given by position, in order.
        named: Those that can be given by name.
        required: Those without a default.
        any_position: It takes any more by position.
        any_name: It takes any more by name.
        text: As in the source.
    """

    positional: tuple[str, ...]
    named: frozenset[str]
    required: tuple[str, ...]
    any_position: bool
    any_name: bool
    text: str


class Sources:
    """The Python sources of a checkout.

    Args:
        root: The checkout.
        roots: Folders in it that modules are imported from.
    """

    def __init__(self, root: Path, roots: Sequence[str] = ("",)) -> None:
        self._root = root
        self._roots = [root / folder for folder in roots]
        self._modules: dict[str, Module | Absent | None] = {}

    def module(self, name: str) -> Module | Absent | None:
        """A module by its dotted name; None where there is none, Absent where it cannot be parsed."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def find(self, module: str, name: str) -> Found:
        """What ``name`` of a module is; ``name`` may be ``Class.member``."""
        read = self.module(module)
        if read is None:
            return Absent(f"there is no module {module}", module, tuple(self._neighbours(module)))
        if isinstance(read, Absent):
            return read
        first, _, member = name.partition(".")
        found = self._in_module(read, first, _DEPTH)
        return found if not member else self._member(found, member, _DEPTH)

    def parameters(self, found: Definition) -> Parameters | None:
        """How a function, method or class is called; None where that cannot be read."""
        if isinstance(found.node, ast.ClassDef):
            if found.node.decorator_list or any(
                keyword.arg == "metaclass" for keyword in found.node.keywords
            ):
                return None
            made = self._member(found, "__init__", _DEPTH)
            return _parameters(made) if isinstance(made, Definition) and _is_function(made) else None
        return _parameters(found)

    # -- reading ------------------------------------------------------------------------------------------

    def _read(self, name: str) -> Module | Absent | None:
        for base in self._roots:
            place = base.joinpath(*name.split("."))
            for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
                if file.is_file():
                    return self._parsed(name, file)
            if place.is_dir():
                return Module(name, str(place.relative_to(self._root)), None)
        return None

    def _parsed(self, name: str, file: Path) -> Module | Absent:
        relative = str(file.relative_to(self._root))
        try:
            return Module(name, relative, ast.parse(file.read_bytes(), filename=relative))
        except (SyntaxError, ValueError, RecursionError, OSError) as error:
            reason = " ".join(str(error).split())
            return Absent(f"{relative}: cannot be read as Python ({reason:.120})", name)

    def _neighbours(self, module: str) -> Iterator[str]:
        parent, _, _ = module.rpartition(".")
        for base in self._roots:
            folder = base.joinpath(*parent.split(".")) if parent else base
            for file in sorted(folder.glob("*.py")):
                yield f"{parent}.{file.stem}" if parent else file.stem

    def _in_module(self, module: Module, name: str, depth: int) -> Found:
        absent = Absent(f"{module.file}: has no '{name}'", name, tuple(sorted(_names(module))))
        if depth == 0:
            return Opaque()
        statements = [] if module.tree is None else list(_statements(module.tree.body))
        stars: list[str] = []
        best: Found | None = None
        for statement in statements:
            if isinstance(statement, _Function | ast.ClassDef) and statement.name == name:
                best = Definition(module, statement)  # the last one counts, as in Python
            elif best is None or not isinstance(best, Definition):
                if isinstance(statement, ast.ImportFrom):
                    source = self._source_of(module, statement)
                    stars += [source for alias in statement.names if alias.name == "*"]
                    bound = [alias for alias in statement.names if (alias.asname or alias.name) == name]
                    if bound and (best is None or isinstance(best, Opaque | Absent)):
                        best = self._imported(module, source, bound[0].name, depth)
                elif isinstance(statement, ast.Import):
                    best = best or self._import(statement, name)
                elif name in _targets(statement) and best is None:
                    best = self._assigned(module, statement, name, depth)
        if best is not None:
            return best
        if module.tree is None or module.file.endswith("__init__.py"):
            inner = self.module(f"{module.name}.{name}")
            if inner is not None:
                return inner
        for star in stars:
            found = self._imported(module, star, name, depth)
            if not isinstance(found, Absent):
                return found
        dynamic = any(isinstance(s, _Function) and s.name == "__getattr__" for s in statements)
        return Opaque() if dynamic else absent

    def _source_of(self, module: Module, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parts = module.name.split(".")
        if not module.file.endswith("__init__.py"):
            parts = parts[:-1]
        parts = parts[: len(parts) - (statement.level - 1)]
        return ".".join([*parts, *([statement.module] if statement.module else [])])

    def _imported(self, into: Module, source: str, name: str, depth: int) -> Found:
        read = self.module(source)
        if isinstance(read, Absent):
            return read
        if read is None:
            if self.module(source.partition(".")[0]) is None:
                return Opaque()  # an installed package
            return Absent(
                f"{into.file}: takes '{name}' from {source}, and there is no such module",
                source,
                tuple(self._neighbours(source)),
            )
        found = self._in_module(read, name, depth - 1)
        if isinstance(found, Absent):
            inner = self.module(f"{source}.{name}")
            return found if inner is None else inner
        return found

    def _import(self, statement: ast.Import, name: str) -> Found | None:
        for alias in statement.names:
            if (alias.asname or alias.name.partition(".")[0]) == name:
                read = self.module(alias.name if alias.asname else name)
                return read or Opaque()
        return None

    def _assigned(self, module: Module, statement: ast.stmt, name: str, depth: int) -> Found:
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Name):
            found = self._in_module(module, value.id, depth - 1) if value.id != name else Opaque()
            return Opaque() if isinstance(found, Absent) else found  # a builtin
        return Opaque()

    def _member(self, found: Found, member: str, depth: int) -> Found:
        if isinstance(found, Opaque | Absent):
            return found
        if isinstance(found, Module):
            return self._in_module(found, member, depth)
        if not isinstance(found.node, ast.ClassDef) or depth == 0:
            return Opaque()
        best: Found | None = None
        for statement in _statements(found.node.body):
            if isinstance(statement, _Function | ast.ClassDef):
                if statement.name == member:
                    best = Definition(found.module, statement, found.node)
                elif best is None and _sets(statement, member):
                    best = Opaque()
            elif member in _targets(statement):
                best = best or Opaque()
        if best is not None:
            return best
        # A class of an installed package is looked past: what adapters rely on is in the checkout.
        for base in found.node.bases:
            above = self._in_module(found.module, base.id, depth - 1) if isinstance(base, ast.Name) else None
            if isinstance(above, Definition):
                inherited = self._member(above, member, depth - 1)
                if not isinstance(inherited, Absent):
                    return inherited
        return Absent(
            f"{found.place}: {found.node.name} has no '{member}'",
            member,
            tuple(s.name for s in found.node.body if isinstance(s, _Function)),
        )


def reads(found: Definition) -> set[str]:
    """The names that a function looks up when it runs, those of functions within it too."""
    loaded = {n.id for n in ast.walk(found.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return loaded - {argument.arg for argument in ast.walk(found.node) if isinstance(argument, ast.arg)}


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module or class is made, those inside ``if``, ``try``, ``with`` and loops too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and _is_main(statement.test):
            continue
        if isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.Try):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)


def _is_main(test: ast.expr) -> bool:
    """``__name__ == "__main__"``, which is not so for a module that is imported."""
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _targets(statement: ast.stmt) -> set[str]:
    places: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        places = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.For):
        places = [statement.target]
    elif isinstance(statement, ast.With):
        places = [item.optional_vars for item in statement.items if item.optional_vars is not None]
    return {n.id for place in places for n in ast.walk(place) if isinstance(n, ast.Name)}


def _sets(method: _Function | ast.ClassDef, attribute: str) -> bool:
    """Whether a method assigns ``self.attribute``."""
    return any(
        isinstance(n, ast.Attribute)
        and n.attr == attribute
        and isinstance(n.ctx, ast.Store)
        and isinstance(n.value, ast.Name)
        and n.value.id == "self"
        for n in ast.walk(method)
    )


def _names(module: Module) -> set[str]:
    names: set[str] = set()
    for statement in [] if module.tree is None else _statements(module.tree.body):
        if isinstance(statement, _Function | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in statement.names}
        else:
            names |= _targets(statement)
    return names


def _is_function(found: Definition) -> bool:
    return isinstance(found.node, _Function)


def _parameters(found: Definition) -> Parameters | None:
    node = found.node
    assert not isinstance(node, ast.ClassDef)
    given = node.args
    places = [*given.posonlyargs, *given.args]
    defaults = len(given.defaults)
    required = [argument.arg for argument in places[: len(places) - defaults]]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if found.owner is not None and not static:
        first = places[0].arg if places else None
        places, required = places[1:], [name for name in required if name != first]
    keywords = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    required += [argument.arg for argument, default in keywords if default is None]
    only = {argument.arg for argument in given.posonlyargs}
    named = {argument.arg for argument in (*places, *given.kwonlyargs)} - only
    name = node.name if found.owner is None else found.owner.name if node.name == "__init__" else node.name
    return Parameters(
        positional=tuple(argument.arg for argument in places),
        named=frozenset(named),
        required=tuple(required),
        any_position=given.vararg is not None,
        any_name=given.kwarg is not None,
        text=f"{name}({ast.unparse(given)})",
    )
