"""
The command line says what it can do, does it, and ends with a status that a script can use.
"""

import subprocess
import sys
import types

import pytest

import selfheal

from selfheal.__main__ import main
from selfheal.errors import MissingExtraError
from selfheal.model import HealingState


def test_version_is_that_of_the_package(capsys):
    """
    --version prints one line and ends well.
    """
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert (0, f"selfheal {selfheal.__version__}\n") == (end.value.code, capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [[], ["dmeo"], ["demo", "--jsno"]])
def test_a_mistyped_command_shows_what_there_is(capsys, arguments):
    """
    Whatever is mistyped, the status is 2 and the help is on stderr.
    """
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()

    assert (2, "") == (end.value.code, said.out)
    assert "diagram" in said.err
    assert "five ways" in said.err


def test_diagram_prints_the_states(capsys):
    """
    The diagram is Mermaid's and names every state.
    """
    assert 0 == main(["diagram"])
    said = capsys.readouterr().out

    assert "stateDiagram" in said
    assert [] == [state.name for state in HealingState if state.name.lower() not in said.lower()]


@pytest.fixture
def demo(monkeypatch):
    """A demonstration that notes how it was called, and ends as it is told."""
    module = types.ModuleType("selfheal.demo")
    module.calls = []
    module.ending = 0

    def run(*, json, quick, port):
        module.calls.append((json, quick, port))
        if isinstance(module.ending, Exception):
            raise module.ending
        return module.ending

    module.main = run
    monkeypatch.setitem(sys.modules, "selfheal.demo", module)
    return module


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["demo"], (False, False, None)),
        (["demo", "--json"], (True, False, None)),
        (["demo", "--quick"], (False, True, None)),
        (["demo", "--listen"], (False, False, 9464)),
        (["demo", "--listen", "9000"], (False, False, 9000)),
    ],
)
@pytest.mark.parametrize("ending", [0, 1])
def test_demo_ends_with_the_status_of_the_demonstration(demo, arguments, called, ending):
    """
    What the demonstration says is what the process ends with.
    """
    demo.ending = ending

    assert (ending, [called]) == (main(arguments), demo.calls)


def test_a_missing_extra_is_one_line(demo, capsys):
    """
    What is not installed is named with the command that installs it, without a traceback.
    """
    demo.ending = MissingExtraError("selfheal.demo needs the package 'rich'.")

    assert 1 == main(["demo"])
    assert ("", "selfheal.demo needs the package 'rich'.\n") == tuple(capsys.readouterr())


def test_runs_as_a_module():
    """
    ``python -m selfheal`` is the same command.
    """
    run = subprocess.run([sys.executable, "-m", "selfheal", "--version"], capture_output=True, text=True)

    assert (0, f"selfheal {selfheal.__version__}\n") == (run.returncode, run.stdout)
