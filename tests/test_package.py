"""
What users import: the public names, what they cost, and whether the reference tells the truth about them.
"""

from __future__ import annotations

import ast
import builtins
import enum
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import selfheal


SNAPSHOT = pathlib.Path(__file__).with_name("public_api.txt")
SOURCES = sorted(pathlib.Path(selfheal.__file__).parent.rglob("*.py"))
REFERENCE = pathlib.Path(__file__).parents[1] / "docs" / "reference"


def _described() -> dict[str, list[str]]:
    """
    What the reference describes is what is public: modules and the names that they offer.
    """
    directives = re.compile(r"^\.\. auto(module|class):: (\S+)", re.MULTILINE)
    found: dict[str, list[str]] = {}
    for kind, target in (
        match for page in sorted(REFERENCE.glob("*.md")) for match in directives.findall(page.read_text())
    ):
        module, _, name = (target, "", "") if kind == "module" else target.rpartition(".")
        found.setdefault(module, []).extend([name] if name else _public_names(module))
    return {module: sorted(found[module]) for module in sorted(found)}


def _public_names(module: str) -> list[str]:
    loaded = importlib.import_module(module)
    own = [
        name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module and callable(value)
    ]
    names = [name for name in getattr(loaded, "__all__", own) if not name.startswith("_")]
    return names if module == "selfheal" else [name for name in names if name not in selfheal.__all__]


PUBLIC = _described()


class _Bare:
    """
    Shown as it is, without the quotes of a string and the address of a function.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(
            annotation=_bare(parameter.annotation),
            default=_Bare(parameter.default.__name__) if inspect.isroutine(parameter.default) else parameter.default,
        )
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=_bare(signature.return_annotation)))


def _bare(annotation: object) -> object:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _members(cls: type) -> Iterator[str]:
    """
    What *cls* has beyond its public bases, which are listed themselves.
    """
    if issubclass(cls, enum.Enum):
        yield from (f".{name}" for name in cls.__members__)
        return
    ours = [
        vars(base) for base in cls.__mro__ if base.__module__.startswith("selfheal") and base not in _public_bases(cls)
    ]
    for name in sorted({name for members in ours for name in members if not name.startswith("_")}):
        value = inspect.getattr_static(cls, name)
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        colour = "async " if inspect.iscoroutinefunction(function) else ""
        yield f".{colour}{name}{_signature(function) if inspect.isfunction(function) else ''}"


def _public_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:] if base.__name__ in PUBLIC.get("selfheal", ())]


def describe() -> str:
    """
    The public surface, a line a name, the same on every Python.
    """
    lines: list[str] = []
    for module, names in PUBLIC.items():
        lines += ["", f"# {module}"]
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value):
                ours = getattr(value.__init__, "__module__", "").startswith("selfheal")
                bases = "".join(f" < {base.__name__}" for base in _public_bases(value))
                lines.append(f"{name}{_signature(value) if ours else ''}{bases}")
                lines += [f"    {member}" for member in _members(value)]
            else:
                lines.append(f"{name}{_signature(value) if inspect.isroutine(value) else ''}")
    return "\n".join(lines).lstrip() + "\n"


def test_public_api_is_what_was_reviewed() -> None:
    """
    A change of the public API shows up as a diff of tests/public_api.txt.
    """
    if os.environ.get("SELFHEAL_ACCEPT_API"):
        SNAPSHOT.write_text(describe())
    assert SNAPSHOT.read_text() == describe()


def test_no_name_loads_what_is_heavy() -> None:
    """
    `import selfheal`, and each of its names, load neither an event loop nor the metrics library.
    """
    program = """
import sys, selfheal
for name in ("__version__", *selfheal.__all__):
    getattr(selfheal, name)
    if found := {"anyio", "asyncio", "prometheus_client", "tenacity"} & set(sys.modules):
        sys.exit(f"{name} loads {found}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)


def test_every_name_is_listed_and_found() -> None:
    """
    What `dir(selfheal)` offers can be had, and an unknown name is an AttributeError.
    """
    assert set(selfheal.__all__) <= set(dir(selfheal))
    assert [] == [name for name in selfheal.__all__ if not hasattr(selfheal, name)]
    assert not hasattr(selfheal, "nonesuch")


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_a_docstring(module: str) -> None:
    """
    Every public class, function, method and property says what it is for.
    """
    loaded = importlib.import_module(module)
    silent = [] if loaded.__doc__ else [module]
    for name in PUBLIC[module]:
        value = getattr(loaded, name)
        if not getattr(value, "__module__", "").startswith("selfheal"):
            continue  # a constant or an alias; a comment above it explains it
        own = [(name, value)]
        if inspect.isclass(value) and not issubclass(value, enum.Enum):
            own += [
                (f"{name}.{member}", found)
                for member, found in inspect.getmembers(value, _is_described)
                if not member.startswith("_")
            ]
        silent += [f"{module}.{label}" for label, found in own if not inspect.getdoc(found)]
    assert [] == silent


def _is_described(member: object) -> bool:
    return inspect.isfunction(member) or inspect.ismethod(member) or isinstance(member, property)


def test_every_error_a_docstring_names_exists() -> None:
    """
    Every name under `Raises:` is an exception that can be caught under that name.
    """
    assert [] == [f"{path.stem}: {error}" for path in SOURCES for error in _unknown_errors(path.read_text())]


def _unknown_errors(source: str) -> list[str]:
    known = {*dir(builtins), *dir(importlib.import_module("selfheal.errors"))}
    named: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            section = re.search(r"^Raises.*:\n((?: {4,}.*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
            named += re.findall(r"^ {4}([A-Za-z_][\w.]*):", section[1], re.MULTILINE) if section else []
    return [error for error in named if error.partition(".")[0] not in known]


def test_no_file_outgrows_its_room() -> None:
    """
    No source file has more than 400 lines.
    """
    lengths = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    assert {} == {name: length for name, length in lengths.items() if length > 400}
