"""
Metrics in several processes: those of a pre-fork server, and those of a process that forks while it counts.
"""

import os
import subprocess
import sys
import textwrap

import pytest


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

STAGE = """
    from types import SimpleNamespace

    from selfheal import HealthCheck, names, rung
    from selfheal.export.prometheus import PrometheusExporter
    from selfheal.model import Event
    from selfheal.recovery import recovery_action


    @recovery_action
    def drain(ctx):
        pass


    class Stage:
        mode, events_dropped = "enforce", 0

        def __init__(self):
            self.checks = (HealthCheck(lambda: None, name="orders", recovery=rung(drain)),)
            self.listeners = []

        def status(self):
            return {}

        def snapshot(self, *, max_age=0.0):
            return SimpleNamespace(running=True, lag=0.0, at=1.0, paused=None, pauses={}, checks={}, budgets={})

        def on_event(self, listener, *, events=None):
            self.listeners.append(listener)
            return lambda: self.listeners.remove(listener)

        def say(self, name, **fields):
            for listener in tuple(self.listeners):
                listener(Event(name=name, at=1.0, check="orders", resource="orders", fields=fields))
"""

WORKER = (
    STAGE
    + """
    stage = Stage()
    PrometheusExporter().attach(stage)
    stage.say(names.CHECK_COMPLETED, status="healthy", kind=None, duration=0.1, scheduled_lag=0.0)
    stage.say(names.INCIDENT_OPENED, kind="stale", time_to_detect=1.0, manual=False)
    stage.say(names.HEALING_VERIFIED, action="drain", rung=0, attempt=1)
    stage.say(names.STATE_CHANGED, from_state="verifying", to_state="restored", reason="")
    print("counted", flush=True)
    input()
"""
)

SCRAPE = """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    print(generate_latest(registry).decode())
"""

FORKS = (
    STAGE
    + """
    import os
    import signal
    import threading
    import warnings

    from prometheus_client import REGISTRY, generate_latest

    from selfheal.export.registration import metrics_in

    warnings.simplefilter("ignore")  # newer interpreters warn of forks beside threads: that is the point here
    stage = Stage()
    exporter = PrometheusExporter()
    exporter.attach(stage)
    done = threading.Event()


    def count():
        while not done.is_set():
            stage.say(names.CHECK_COMPLETED, status="healthy", kind=None, duration=0.1, scheduled_lag=0.0)


    def scrape():
        while not done.is_set():
            generate_latest(REGISTRY)


    # A scrape of several processes reads their files instead, so nobody scrapes the registry then.
    jobs = (count,) if "PROMETHEUS_MULTIPROC_DIR" in os.environ else (count, scrape)
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    stuck = wrong = 0
    for _ in range(40):
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a deadlock ends the child, and is counted by the parent
            stage.say(names.HEALING_VERIFIED, action="drain", rung=0, attempt=1)  # the parent's feed: not counted here
            exporter.attach(stage)
            stage.say(names.HEALING_VERIFIED, action="drain", rung=0, attempt=1)
            (counted,) = [
                sample.value
                for metric in metrics_in(REGISTRY).collect()
                for sample in metric.samples
                if sample.name == "healing_total"
            ]
            os._exit(0 if counted == 1 else 1)
        _, status = os.waitpid(child, 0)
        stuck += os.WIFSIGNALED(status)
        wrong += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
        if stuck:
            break
    done.set()
    print(stuck, wrong)
"""
)


def script(source: str) -> list[str]:
    """The command that runs *source*."""
    return [sys.executable, "-c", textwrap.dedent(source)]


def test_two_processes_become_one_page(tmp_path):
    """
    With PROMETHEUS_MULTIPROC_DIR counters add up, state sets merge, and no series names a process.
    """
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    workers = [
        subprocess.Popen(script(WORKER), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert ["counted\n"] * 2 == [worker.stdout.readline() for worker in workers]
        page = subprocess.run(script(SCRAPE), env=environment, capture_output=True, text=True, check=True).stdout
    finally:
        for worker in workers:
            worker.communicate("\n")
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))

    assert "2.0" == values["healing_total"]
    assert "2.0" == values['selfheal_incidents_open{resource="orders"}']
    assert "2.0" == values['selfheal_probe_runs_total{check="orders",outcome="pass"}']
    assert "0.0" == values['selfheal_probe_runs_total{check="orders",outcome="fail"}']
    assert "1.0" == values['selfheal_state{check="orders",resource="orders",state="restored"}']
    assert "1.0" == values['selfheal_probe_up{check="orders"}']
    assert "pid=" not in page


@needs_fork
@pytest.mark.at_length
@pytest.mark.parametrize("several", [False, True], ids=["registry", "multiprocess"])
def test_a_child_neither_deadlocks_nor_counts_twice(tmp_path, several):
    """
    A process that is forked while others count and scrape can count at once, from 0.
    """
    environment = os.environ | ({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if several else {})
    run = subprocess.run(script(FORKS), env=environment, capture_output=True, text=True, timeout=100)

    assert ("0 0", "") == (run.stdout.strip(), run.stderr)
