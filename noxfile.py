"""
Everything the project checks, one session a question. `nox -l` lists them, `nox -s NAME` asks one.
"""

from __future__ import annotations

import glob
import os
import pathlib
import shutil
import subprocess
import sys

import nox


nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"  # pip, so that its configured index holds; no ensurepip needed
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False  # an absent one is skipped, and nox says so
nox.options.sessions = ["tests", "real", "lint", "typing", "layers", "docs"]

IN_CI = "CI" in os.environ
NO_SKIPS = {"SELFHEAL_NO_SKIPS": "1"} if IN_CI else {}
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]

#: What the files of `tests/system` need beyond Python: ``file: (command, Debian package)``.
SYSTEM_NEEDS = {
    "test_full_disk.py": ("mount", "mount"),
    "test_haproxy.py": ("haproxy", "haproxy"),
    "test_mysql.py": ("mariadbd", "mariadb-server-core"),
    "test_page.py": ("chromium", "chromium"),
    "test_prometheus.py": ("promtool", "prometheus"),
    "test_systemd.py": ("/lib/systemd/systemd", "systemd"),
}

#: A package index that does not answer is given up soon; then apt ends with 100.
APT = ("apt-get", "-qy", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1")

# pyenv's shims answer for the versions of `pyenv global` alone; the interpreters themselves stand beside them.
_PYENV = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *sorted(glob.glob(f"{_PYENV}/versions/3.*/bin"))])


def _newest() -> str:
    """
    The newest supported version of which an interpreter answers here.
    """
    own = "{}.{}".format(*sys.version_info)
    for version in reversed(VERSIONS):
        command = shutil.which(f"python{version}")
        if version == own or (command and subprocess.run([command, "-V"], capture_output=True).returncode == 0):
            return version
    return own


NEWEST = _newest()


_installed: dict[pathlib.Path, set[str]] = {}


def _install(session: nox.Session, *groups: str) -> None:
    """
    Install what this run of nox has not yet put there: to ask pip for the same again takes longer than most sessions.
    """
    session.env["PYTHONDONTWRITEBYTECODE"] = ""  # or each of the many processes that tests start would compile all anew
    there = _installed.setdefault(pathlib.Path(session.virtualenv.location).resolve(), set())
    if missing := [group for group in groups if group not in there]:
        # Python compiles what is imported: for pip to compile all there is takes as long as the rest.
        session.install("--no-compile", "-e", ".", *(f"--group={group}" for group in missing))
        there.update(missing)


@nox.session(python=VERSIONS)
def tests(session: nox.Session) -> None:
    """Virtual time, on asyncio and trio: `tests`. In CI a skip is a failure."""
    _install(session, "tests")
    thorough = IN_CI and session.python == NEWEST  # property tests at length once; the other versions get the short run
    if session.python == NEWEST and sys.platform != "win32":
        _share_environment(pathlib.Path(session.virtualenv.location))
    profile = f"--hypothesis-profile={'ci' if thorough else 'dev'}"
    session.run("pytest", "-n=auto", profile, *session.posargs, env=NO_SKIPS)


def _share_environment(environment: pathlib.Path) -> None:
    """
    Let later sessions of the same Python live in *environment*: to install the same again takes longer than most of them.
    """
    for session in ("real", "system", "typing", "layers", "docs"):
        link = environment.with_name(session)
        if not link.exists():
            link.symlink_to(environment.name)


@nox.session(python=NEWEST)
def real(session: nox.Session) -> None:
    """Real time, with servers from pip: `tests/real`. In CI all of them, and a skip is a failure."""
    _install(session, "tests")
    _run_in_real_time(session, "tests/real", timed=2 if IN_CI else 3, others=4, env=NO_SKIPS)


def _run_in_real_time(session: nox.Session, *args: str, timed: int, others: int, env: dict[str, str]) -> None:
    """
    So many at a time of those that promise how long something takes, so many of the others.

    They wait more than they work. Each file is run as a whole, for it shares its servers, and the longest first, as their
    conftest has it.
    """
    for marked, workers in (("timed", timed), ("not timed", others)):
        session.run(
            "pytest",
            f"-n={workers}",
            "--dist=loadfile",
            "--no-loadscope-reorder",
            "-m",
            marked if IN_CI else f"{marked} and not at_length",
            *args,
            *session.posargs,
            env=env,
            success_codes=[0, 5] if session.posargs else [0],  # 5: what was asked for is all of the other kind
        )


@nox.session(python=NEWEST)
def system(session: nox.Session) -> None:
    """What needs root and Debian packages, which it installs: `tests/system`. A skip is a failure."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        session.skip("needs root on a Debian, to install packages and to take the machine apart")
    if missing := _missing():
        session.run(*APT, "update", external=True, success_codes=[0, 100])
        session.run(
            *APT, "install", "--no-install-recommends", *missing.values(), external=True, success_codes=[0, 100]
        )
    left_out = _missing()
    for file, package in left_out.items():
        session.warn(f"tests/system/{file} is left out: the package {package} cannot be installed here.")
    _install(session, "tests", "browser")
    ignored = [f"--ignore=tests/system/{file}" for file in left_out]
    _run_in_real_time(session, "tests/system", *ignored, timed=1, others=2, env={"SELFHEAL_NO_SKIPS": "1"})


def _missing() -> dict[str, str]:
    """
    Files of `tests/system` that cannot run, and the package that each of them needs.
    """
    return {file: package for file, (command, package) in SYSTEM_NEEDS.items() if shutil.which(command) is None}


@nox.session(python=NEWEST)
def generated(session: nox.Session) -> None:
    """Two thousand requests that schemathesis makes up: `tests/generated`, three minutes. Not in CI."""
    _install(session, "tests", "generated")
    session.run("pytest", "tests/generated", *session.posargs)


@nox.session(python=NEWEST)
def lint(session: nox.Session) -> None:
    """Style, docstrings, changelog fragments."""
    session.install("--group=lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("interrogate", "tests")
    session.run("towncrier", "build", "--draft", "--version=next", silent=True)


@nox.session(python=NEWEST)
def typing(session: nox.Session) -> None:
    """Types: mypy on all of `src`, pyright on all but `integrations`, and the public API as an editor sees it."""
    _install(session, "typing")
    session.run("mypy", "src", "tests/typing")
    session.run("pyright")


@nox.session(python=NEWEST)
def layers(session: nox.Session) -> None:
    """Who may import whom."""
    _install(session, "layers")
    session.run("lint-imports")


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """Build the documentation and run every code block of it, of the README and of the docstrings."""
    _install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
    # A page is run from its top; pages wait more than they work.
    session.run("pytest", "docs", "README.md", "-p", "no:randomly", "-n=4", "--dist=loadfile", *session.posargs)
    # Django's commands cannot be imported without a project.
    session.run("pytest", "--doctest-modules", "src", "--ignore-glob=*/management/*", *session.posargs)


@nox.session(python=NEWEST)
def bench(session: nox.Session) -> None:
    """Measure beside the peers and print the table."""
    _install(session, "bench", "tests")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=NEWEST)
def demo(session: nox.Session) -> None:
    """Five faults, with selfheal and without."""
    session.install("-e", ".[demo]")
    session.run("python", "-m", "selfheal", "demo", *session.posargs)


@nox.session(python=NEWEST)
def assets(session: nox.Session) -> None:
    """Make the dashboard that ships with the package anew."""
    _install(session, "assets")
    session.run("python", "tests/export/dashboard.py")


@nox.session(python=NEWEST)
def wheel(session: nox.Session) -> None:
    """The tests of virtual time, against the wheel as users get it."""
    built = pathlib.Path(session.create_tmp())
    for old in built.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(built), ".")
    (path,) = built.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(path))
    session.install(str(path), "--group=tests")
    session.run("pytest", "-n=auto", *session.posargs)


@nox.session(python=NEWEST)
def mutants(session: nox.Session) -> None:
    """Break the machine, the rungs and the gates line by line: do the tests notice?"""
    _install(session, "tests")
    session.run("python", "tests/mutants/run.py", *session.posargs)
