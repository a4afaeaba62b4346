"""
What importing costs: CPU time of fresh processes, over that of an empty one.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from collections.abc import Callable

from benchmarks.harness import Case, Figure, Goal, Report, measure, table


README = pathlib.Path(__file__).parents[1] / "README.md"

#: What an import must not load: programs that never need them should not pay for them.
HEAVY = frozenset({"asyncio", "anyio", "prometheus_client", "tenacity", "logging"})
#: What the README's names must not load either; `logging` is what any program has.
FORBIDDEN = frozenset({"asyncio", "anyio", "prometheus_client"})


def readme_names() -> str:
    """
    The import of everything that the README takes from ``selfheal`` itself.
    """
    found = re.findall(r"^from selfheal import (.+)$", README.read_text(), re.MULTILINE)
    names = sorted({name.strip() for line in found for name in line.split(",")})
    return "from selfheal import " + ", ".join(names)


def _milliseconds(code: str, cache: str) -> Callable[[], float]:
    # Installed packages come with their bytecode; a checkout gets the same chance, beside everybody else's.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def cost() -> float:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            msg = f"{code!r} failed with status {process.returncode}"
            raise RuntimeError(msg)
        return 1_000 * (usage.ru_utime + usage.ru_stime)

    return cost


def loaded(code: str) -> set[str]:
    """
    The modules that are loaded after *code*.
    """
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, check=True, text=True
    )
    return set(answer.stdout.split())


def run() -> Report:
    names = readme_names()
    four = "import anyio, attrs, prometheus_client, tenacity"
    codes = {"empty": "pass", "attrs": "import attrs", "selfheal": "import selfheal", "README": names, "four": four}
    before = loaded("pass")
    modules = {key: loaded(code) - before for key, code in codes.items()}
    assert not modules["selfheal"] & HEAVY, modules["selfheal"] & HEAVY
    assert not modules["README"] & FORBIDDEN, modules["README"] & FORBIDDEN

    with tempfile.TemporaryDirectory() as cache:
        raw = measure([Case(key, _milliseconds(code, cache)) for key, code in codes.items()], rounds=21)
    empty = raw["empty"].median
    figures = {
        key: Figure(f"`{codes[key]}`", "", row.low - empty, row.median - empty, row.high - empty)
        for key, row in raw.items()
        if key != "empty"
    }
    heavy = ", ".join(sorted(modules["README"] & HEAVY)) or "none"
    text = (
        f"CPU milliseconds of a fresh process over those of an empty one ({empty:.1f} ms), 21 interleaved processes each."
        "\n\n" + table(figures, unit="ms", base="four", digits=1) + "\n\n"
        f"`import selfheal` loads {len(modules['selfheal'])} modules, the README's names {len(modules['README'])}, "
        f"the four dependencies {len(modules['four'])}. Of {', '.join(sorted(HEAVY))} the README's names load: {heavy}."
    )
    goals = [
        Goal(
            "`import selfheal` over `import attrs`",
            figures["selfheal"].median - figures["attrs"].median,
            15.0,
            unit="ms",
        ),
        Goal(
            "the README's names beside importing the four dependencies",
            figures["README"].median / figures["four"].median,
            0.5,
        ),
    ]
    return Report("Imports", text, goals)
