"""
The command of the doctor: what it looks at, what it refuses, and how it ends.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from selfheal.__main__ import main
from selfheal.doctor import RULES
from selfheal.doctor.report import rules_as_table


PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder, and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = []

    def write(text):
        name = f"application_{tmp_path.name.replace('-', '_')}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


HEALER = """
    from selfheal import Healer, HealthCheck
    healer = Healer([HealthCheck(lambda: None, name="db")])
"""


@pytest.mark.parametrize(
    ("options", "status"), [([], 0), (["--fail-on", "info"], 1), (["--fail-on", "info", "--ignore", "SH701"], 0)]
)
def test_status_tells_whether_anything_as_bad_was_found(module, capsys, options, status):
    """
    The status is 1 from the given severity on, by default a warning, and else 0.
    """
    assert status == main(["doctor", f"{module(HEALER)}:healer", *options])
    assert "SH701 info" in capsys.readouterr().out or "--ignore" in options


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("healer", "write module:attribute"),
        ("there_is_no_such:healer", "there_is_no_such could not be imported: ModuleNotFoundError"),
        ("json:healer", "has no attribute 'healer'"),
        ("json:JSONDecodeError", "json:JSONDecodeError() failed: TypeError"),
        ("json:codecs", "module is no Healer"),
    ],
)
def test_what_cannot_be_looked_at_is_said(capsys, monkeypatch, target, reason):
    """
    A target that is none ends with 2 and one line on stderr, not with a traceback.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))

    assert 2 == main(["doctor", target])
    said = capsys.readouterr()
    assert "" == said.out
    assert reason in said.err
    assert 1 == said.err.count("\n")


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "json:healer", "--ignore", "SH000"]])
def test_what_makes_no_sense_is_refused(capsys, arguments):
    """
    No target, and a rule that does not exist, end with 2.
    """
    assert 2 == main(arguments)
    assert capsys.readouterr().err.startswith("python -m selfheal doctor: n")


@pytest.mark.parametrize(
    "ending",
    [
        "1 / 0",
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "raise __import__('asyncio').CancelledError",
        "raise type('Mute', (BaseException,), {'__str__': lambda self: 1 / 0})",
        "raise ValueError('two\\nlines')",
    ],
)
def test_an_application_that_cannot_be_imported_is_told_with_the_place(module, capsys, ending):
    """
    The error of the application is one line with its type and where it was raised.
    """
    name = module(ending)

    assert 2 == main(["doctor", f"{name}:healer"])
    said = capsys.readouterr().err
    assert f"{name} could not be imported: " in said
    assert f"{name}.py:1)" in said
    assert 1 == said.count("\n")


def test_a_module_that_put_another_object_in_its_place_is_looked_at(module):
    """
    What stands in sys.modules under the name is looked at, and not asked for its attributes.
    """
    name = module("""
        import sys
        import types
        from selfheal import Healer, HealthCheck

        class Lazy(types.ModuleType):
            def __getattr__(self, name):
                raise RuntimeError("nothing is to be made")

            @property
            def client(self):
                raise RuntimeError("nothing is to be made")

        lazy = Lazy(__name__)
        lazy.healer = Healer([HealthCheck(lambda: None, name="db")])
        sys.modules[__name__] = lazy
    """)

    assert 0 == main(["doctor", f"{name}:healer"])


@pytest.mark.parametrize("path", ["healer.nothing", "broken.healer"])
def test_an_attribute_that_cannot_be_had_is_said(module, capsys, path):
    """
    A path that ends nowhere, or whose property raises, ends with 2 and one line.
    """
    name = module(
        HEALER
        + """
    broken = type("Broken", (), {"healer": property(lambda self: 1 / 0)})()
    """
    )

    assert 2 == main(["doctor", f"{name}:{path}"])
    assert f"{name}:{path} could not be looked up: " in capsys.readouterr().err


def test_what_the_application_prints_stays_out_of_the_report(module, capfd):
    """
    JSON is all there is on stdout, whoever prints: the import, a child process of it, the function, or a factory.
    """
    name = module("""
        import os, subprocess, sys, threading
        from selfheal import Healer, HealthCheck, Rebuildable

        print("import")
        os.write(1, b"descriptor\\n")
        subprocess.run(["echo", "child"], check=True)
        sys.__stdout__.write("buffered\\n")
        box = Rebuildable(lambda: os.write(1, b"factory\\n"), close=lambda made: os.write(1, b"closed\\n"))

        def make():
            print("function")
            sys.stdout = None
            return Healer([HealthCheck(lambda: box.current, name="db")])
    """)

    assert 0 == main(["doctor", f"{name}:make", "--json", "--build"])
    os.write(1, b"after")
    said = capfd.readouterr()
    assert ["SH701"] == [found["code"] for found in json.loads(said.out.removesuffix("after"))["findings"]]
    words = {"import", "descriptor", "child", "buffered", "function", "factory", "closed"}
    assert words == set(said.err.split())
    assert said.out.endswith("after")


def test_what_the_application_prints_at_its_end_stays_out_of_the_report(module):
    """
    Neither an exit handler nor what a C library has in its buffer comes after the JSON.
    """
    name = module(
        HEALER
        + """
    import atexit, ctypes
    ctypes.CDLL(None).printf(b"buffered ")
    atexit.register(print, "exit")
    """
    )
    command = [sys.executable, "-m", "selfheal", "doctor", f"{name}:healer", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert ["SH701"] == [found["code"] for found in json.loads(done.stdout)["findings"]]
    assert {"exit", "buffered"} == set(done.stderr.split())


@pytest.mark.parametrize(
    "waits", ["thread.start()", "thread.daemon = True; thread.start(); atexit.register(thread.join)"]
)
def test_it_ends_though_the_application_has_threads_that_do_not(module, waits):
    """
    A thread that an import has started keeps nobody waiting for the exit status; nor does a pool that waits for its own.
    """
    name = module(
        HEALER
        + f"""
    import atexit, threading
    thread = threading.Thread(target=threading.Event().wait)
    {waits}
    """
    )
    command = [sys.executable, "-m", "selfheal", "doctor", f"{name}:healer", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert ["SH701"] == [found["code"] for found in json.loads(done.stdout)["findings"]]


def test_nothing_is_put_where_stdout_was_closed(module):
    """
    A program without stdout is looked at all the same.
    """
    command = [sys.executable, "-m", "selfheal", "doctor", f"{module(HEALER)}:healer"]
    done = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def test_nothing_but_the_import_and_the_function_runs(module):
    """
    No probe, no action and no factory is called, no healer is started, and no property is read.
    """
    name = module("""
        from selfheal import Healer, HealthCheck, Rebuildable, recovery_action

        calls = []

        class Holder:
            @property
            def client(self):
                calls.append("property")

        class Proxy:
            def __getattr__(self, name):
                calls.append("attribute")
                raise RuntimeError("outside of a request")

            @property
            def __class__(self):
                calls.append("class")
                raise RuntimeError("outside of a request")

        holder, proxy = Holder(), Proxy()
        box = Rebuildable(lambda: calls.append("factory"), close=lambda made: calls.append("close"))

        def probe():
            calls.append("probe")
            box.current, holder.client, proxy.client

        @recovery_action
        def heal(ctx):
            calls.append("action")

        healer = None

        def make():
            global healer
            healer = Healer([HealthCheck(probe, name="db", recovery=heal)])
            return healer
    """)

    assert 0 == main(["doctor", f"{name}:make"])
    assert [] == sys.modules[name].calls
    assert {"db": None} == {key: status.last for key, status in sys.modules[name].healer.status().items()}


REBUILDABLE = """
    from psycopg_pool import ConnectionPool
    from selfheal import Healer, HealthCheck, Rebuildable
    from selfheal.integrations.psycopg import PoolHealth, pool_ladder

    closed = []

    def close(pool):
        closed.append(pool)
        pool.close()

    pool = Rebuildable(lambda: ConnectionPool("host=db", open=False), close=close, name="pool")
    healer = Healer([HealthCheck(PoolHealth(pool), name="db", timeout=1, recovery=pool_ladder(pool))])
"""


def test_what_is_not_built_yet_is_named(module, capsys):
    """
    A Rebuildable that has made nothing is no finding, but it is said that nobody looked into it.
    """
    pytest.importorskip("psycopg_pool")
    name = module(REBUILDABLE)

    assert 0 == main(["doctor", f"{name}:healer"])
    assert f"not looked at: what {name}:pool makes" in capsys.readouterr().out


def test_what_is_built_for_the_look_is_closed_again(module, capsys):
    """
    --build makes the pool, finds what is wrong with it, and leaves it closed.
    """
    pytest.importorskip("psycopg_pool")
    name = module(REBUILDABLE)

    assert 1 == main(["doctor", f"{name}:healer", "--build", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert {f"{name}:pool"} == {found["subject"] for found in report["findings"]}
    assert ["SH101", "SH102", "SH103", "SH106"] == [found["code"] for found in report["findings"]]
    assert ([], 1) == (report["unbuilt"], len(sys.modules[name].closed))


def test_what_cannot_be_built_is_said(module, capsys):
    """
    A factory that raises ends the look with 2.
    """
    name = module("""
        from selfheal import Healer, HealthCheck, Rebuildable
        box = Rebuildable(lambda: 1 / 0, close=print)
        healer = Healer([HealthCheck(lambda: box.current, name="db")])
    """)

    assert 2 == main(["doctor", f"{name}:healer", "--build"])
    assert f"{name}:box could not be built: ZeroDivisionError" in capsys.readouterr().err


def test_every_rule_has_a_code_of_its_own():
    """
    Codes are unique and grouped by what is looked at.
    """
    codes = [rule.code for rule in RULES]

    assert sorted(set(codes)) == codes
    assert [] == [code for code in codes if not re.fullmatch(r"SH\d{3}", code)]


def test_rules_are_listed(capsys):
    """
    --rules needs no healer and prints the table that the page has.
    """
    assert 0 == main(["doctor", "--rules"])
    table = capsys.readouterr().out

    assert rules_as_table() + "\n" == table
    assert table in PAGE.read_text()
