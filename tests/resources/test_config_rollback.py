"""
RollbackConfig and RollForwardConfig, as a healer runs them: with real files, in virtual time.
"""

from __future__ import annotations

import os
import pathlib
import stat

import anyio
import attrs
import pytest

from selfheal import ConfigError, Escalate, HealthCheck, Unhealthy, recovery_action, rung
from selfheal.errors import CancelledRecoveryError
from selfheal.model import Blast
from selfheal.records import tell
from selfheal.resources import ConfigFiles, RollbackConfig, RollForwardConfig, config_versions
from selfheal.resources.config_store import ConfigStore
from selfheal.testing import VirtualClock, simulate


@attrs.define
class Service:
    """
    Reads its configuration when it is told to, and works if that says so. What happens to it is told beforehand.
    """

    path: pathlib.Path
    clock: VirtualClock = attrs.field(factory=VirtualClock)
    #: When what is written; `None`: a fault that has nothing to do with the configuration, for so long.
    pushes: dict[float, str] = attrs.field(factory=dict)
    outage: tuple[float, float] = (0, 0)
    #: Contents that cannot be loaded.
    unloadable: tuple[str, ...] = ()
    is_async: bool = False
    loaded: str = ""
    loads: list[str] = attrs.field(factory=list)

    def load(self) -> None:
        text = self.path.read_text()
        self.loads.append(text)
        if text in self.unloadable:
            raise ValueError(text)
        self.loaded = text

    async def aload(self) -> None:
        self.load()

    def probe(self) -> None:
        for when in [when for when in self.pushes if when <= self.clock.now()]:
            self.path.write_text(self.pushes.pop(when))
            os.utime(self.path, (when, when))
            try:
                self.load()
            except ValueError:
                self.loaded = "broken"
        if "broken" in self.loaded:
            raise Unhealthy("error", "broken configuration")
        if self.outage[0] <= self.clock.now() < self.outage[1]:
            raise Unhealthy("error", "something else")

    async def aprobe(self) -> None:
        self.probe()


@pytest.fixture
def service(tmp_path: pathlib.Path) -> Service:
    service = Service(tmp_path / "app.conf")
    service.path.write_text("first")
    service.path.chmod(0o640)
    service.load()
    return service


@pytest.fixture
def config(service: Service) -> ConfigFiles:
    return ConfigFiles(
        service.path, reload=lambda: service.load(), healthy_for=30, name="app_conf", clock=service.clock
    )


def run(service: Service, config: ConfigFiles, recovery, until: float = 300):
    check = HealthCheck(config.watching(service.probe), name="app", interval=5, timeout=1, recovery=recovery)
    return simulate([check], until=until, clock=service.clock)


def done(report) -> list[str]:
    """The timeline of the first incident: what was done, and why not."""
    return [line.partition(" s  ")[2] for line in tell(report.incidents[0]).splitlines()[1:]]


def test_a_bad_push_is_rolled_back(service, config):
    """
    A push that breaks the service is back to the last good version at the moment the fault is confirmed, mode and owner
    kept, and the service has loaded it.
    """
    if os.geteuid() == 0:
        os.chown(service.path, 1234, 4321)
    before = service.path.stat()
    service.pushes = {100: "broken"}
    report = run(service, config, RollbackConfig(config))
    after = service.path.stat()
    (incident,) = report.incidents
    began = next(entry.at for entry in incident.timeline if entry.event.endswith("action.finished"))
    assert began - incident.opened < 1
    assert ("first", "first") == (service.path.read_text(), service.loaded)
    assert [before.st_mode, before.st_uid, before.st_gid] == [after.st_mode, after.st_uid, after.st_gid]
    assert ["first", "broken", "first"] == service.loads
    assert "rollback_config has helped: health is proved" in done(report)
    assert "closed: healed" == done(report)[-1]


def test_the_version_that_was_pushed_is_kept(service, config):
    """
    What was rolled back from can be had again, so it is no destruction and needs no permission for one.
    """
    service.pushes = {100: "broken, but an evening's work"}
    run(service, config, RollbackConfig(config))
    (pushed,) = set(config.versions) - {config.good}
    config.restore(pushed)
    assert "broken, but an evening's work" == service.path.read_text()
    assert (False, Blast.PROCESS) == (RollbackConfig(config).destructive, RollbackConfig(config).blast)


def test_it_rolls_forward_if_that_was_no_help(service, config):
    """
    If the check is not healthy with the good version either, the pushed one comes back and the next rung is next.
    """
    service.pushes, service.outage = {100: "second"}, (100, 140)
    tried = []

    @recovery_action
    def restart(_ctx):
        tried.append(service.path.read_text())

    report = run(service, config, RollbackConfig(config) >> restart)
    assert (["second"], "second") == (tried, service.path.read_text())
    assert ["first", "second", "first", "second"] == service.loads
    story = done(report)
    assert any("to roll app_conf back was no help: it was not what broke" in line for line in story)
    assert 1 == sum("rollback_config begins" in line for line in story)


def test_in_one_incident_it_is_tried_once(service, config):
    """
    When all else was tried too and it begins anew, what was no help is not done again.
    """
    service.pushes, service.outage = {100: "second"}, (100, 4000)
    report = run(service, config, RollbackConfig(config), until=5000)
    assert ["first", "second", "first", "second"] == service.loads
    assert any("it was rolled back in this incident before" in line for line in done(report))
    assert "second" == service.path.read_text()


def test_a_reload_that_raises_is_undone_and_the_action_has_failed(service, config):
    """
    If the good version cannot be loaded any longer, the pushed one is put back and loaded, and the error is the outcome.
    """
    service.pushes, service.unloadable = {100: "broken"}, ("first",)
    report = run(service, config, RollbackConfig(config), until=105)
    assert ("broken", "broken") == (service.path.read_text(), service.loaded)
    assert ["first", "broken", "first", "broken"] == service.loads
    assert 0 == len(report.incidents)


def test_the_first_error_is_told_if_nothing_can_be_loaded(service, config, ctx, said):
    """
    If neither version can be loaded, the action fails with what the good one has raised.
    """
    run(service, config, None, until=60)
    service.path.write_text("broken")
    service.unloadable = ("first", "broken")
    with pytest.raises(ValueError, match=r"^first$"):
        RollbackConfig(config).recover(attrs.evolve(ctx, incident=attrs.evolve(ctx.incident, began=90.0)))
    assert "broken" == service.path.read_text()
    assert ["nor could that be reloaded"] == [message for message, _ in said if "nor" in message]


def test_without_a_good_version_there_is_nothing_to_roll_back(service, config):
    """
    Before any version was healthy for long enough it escalates, and the files stay.
    """
    service.pushes = {10: "broken"}
    report = run(service, config, RollbackConfig(config), until=60)
    assert ("broken", ["first", "broken"]) == (service.path.read_text(), service.loads)
    assert () == report.incidents


def test_what_was_well_for_long_is_not_what_broke(service, config):
    """
    If the present files are the last good ones, it escalates and nothing is loaded.
    """
    service.outage = (100, 130)
    report = run(service, config, RollbackConfig(config))
    assert ("first", ["first"]) == (service.path.read_text(), service.loads)
    assert any("the present files are the last known good ones" in line for line in done(report))


@pytest.mark.parametrize("when", [100.5, 101.5])
def test_a_push_made_during_the_incident_stays(service, config, when):
    """
    What is written after the trouble began is somebody's attempt to help, and is not rolled back.
    """
    service.outage, service.pushes = (100, 130), {when: "mended"}
    report = run(service, config, RollbackConfig(config))
    assert ("mended", ["first", "mended"]) == (service.path.read_text(), service.loads)
    assert any("the files were changed after the incident had begun" in line for line in done(report))


def test_a_push_after_the_rollback_stays(service, config):
    """
    If somebody has mended the files after they were rolled back in vain, they are not rolled forward over that.
    """
    service.pushes, service.outage = {100: "second", 103.5: "third"}, (100, 140)
    run(service, config, RollbackConfig(config))
    assert "third" == service.path.read_text()


def test_broken_files_at_the_start_are_rolled_back(service, config):
    """
    A process that starts with files that are not the last good ones rolls them back: they changed before all it has seen.
    """
    run(service, config, None, until=60)
    service.path.write_text("broken")
    service.load()
    started = ConfigFiles(service.path, reload=service.load, healthy_for=30, clock=service.clock)
    report = run(service, started, RollbackConfig(started), until=300)
    assert ("first", "closed: healed") == (service.loaded, done(report)[-1])


def test_async_reloads_are_awaited(service, config):
    """
    An async reload is run to its end, on the way back and forth.
    """
    made = ConfigFiles(service.path, reload=service.aload, healthy_for=30, clock=service.clock)
    service.pushes, service.outage = {100: "second"}, (100, 140)
    check = HealthCheck(made.watching(service.aprobe), name="app", interval=5, timeout=1, recovery=RollbackConfig(made))
    simulate([check], until=300, clock=service.clock)
    assert ["first", "second", "first", "second"] == service.loads


def test_files_that_cannot_be_replaced_are_refused_before_anything_is_touched(service, config, monkeypatch):
    """
    If the folder has become read-only it escalates, with the reason, and neither files nor service notice.
    """
    service.pushes = {100: "broken"}

    def refuse(path):
        raise ConfigError(f"{path} cannot be rolled back: it is on a read-only mount")

    monkeypatch.setattr(config_versions, "require_replaceable", refuse)
    report = run(service, config, RollbackConfig(config), until=150)
    assert ("broken", ["first", "broken"]) == (service.path.read_text(), service.loads)
    assert () == report.incidents
    assert [".app.conf.selfheal", "app.conf"] == sorted(os.listdir(service.path.parent))


def test_an_owner_that_cannot_be_given_back_is_refused(service, config, ctx, monkeypatch):
    """
    Without the right to give the file its owner it escalates, and the pushed file stays with no litter beside it.
    """
    run(service, config, None, until=60)
    service.path.write_text("broken")
    service.path.chmod(0o600)
    owner = service.path.stat()

    def forbidden(_descriptor, _uid, _gid):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", forbidden)
    real = os.fstat

    def of_another(descriptor):
        found = list(real(descriptor))
        found[stat.ST_UID] += 1 if stat.S_ISREG(found[stat.ST_MODE]) else 0
        return os.stat_result(found)

    # The copies in the store are this user's own; only the file beside the configuration is of another.
    prepare = config_versions.prepare

    def prepare_as_another(path, content):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", of_another)
            prepare(path, content)

    monkeypatch.setattr(config_versions, "prepare", prepare_as_another)
    with pytest.raises(Escalate, match=r"app_conf stays as it is: .*Operation not permitted"):
        RollbackConfig(config).recover(attrs.evolve(ctx, incident=attrs.evolve(ctx.incident, began=90.0)))
    after = service.path.stat()
    assert ("broken", owner.st_mode, owner.st_uid) == (service.path.read_text(), after.st_mode, after.st_uid)
    assert [".app.conf.selfheal", "app.conf"] == sorted(os.listdir(service.path.parent))


def test_files_that_cannot_be_kept_are_not_rolled_back(service, config, ctx):
    """
    A push that cannot be kept, because it is too large or no file, is not thrown away: it escalates.
    """
    run(service, config, None, until=60)
    service.path.unlink()
    service.path.mkdir()
    with pytest.raises(Escalate, match=r"cannot be kept, so it is not rolled back: .*is no regular file"):
        RollbackConfig(config).recover(attrs.evolve(ctx, incident=attrs.evolve(ctx.incident, began=90.0)))
    assert service.path.is_dir()


def test_an_event_loop_goes_on_while_another_process_has_the_lock(service, config, ctx):
    """
    With an async reload it waits as a task does, and rolls back once the other has finished.
    """
    run(service, config, None, until=60)
    service.path.write_text("broken")
    made = ConfigFiles(service.path, reload=service.aload, healthy_for=30, clock=service.clock)
    meant = attrs.evolve(ctx, incident=attrs.evolve(ctx.incident, began=90.0))

    async def story() -> str:
        async with anyio.create_task_group() as tasks:
            with ConfigStore(config.store, config.paths, 5).locked():
                tasks.start_soon(RollbackConfig(made).recover, meant)
                for _ in range(3):
                    await anyio.sleep(0)
                return service.path.read_text()

    assert ("broken", "first") == (anyio.run(story), service.path.read_text())


def test_an_action_that_is_not_wanted_any_more_stops_to_wait_for_the_lock(service, config, ctx):
    """
    Whose lease is lost, or whose time is up, does not go on waiting for another process, and has touched nothing.
    """
    run(service, config, None, until=60)
    service.path.write_text("broken")
    reasons = iter([None])  # it is wanted at the beginning
    unwanted = attrs.evolve(
        ctx, incident=attrs.evolve(ctx.incident, began=90.0), stopped=lambda: next(reasons, "the lease is lost")
    )
    with ConfigStore(config.store, config.paths, 5).locked(), pytest.raises(CancelledRecoveryError, match="lease"):
        RollbackConfig(config).recover(unwanted)
    assert "broken" == service.path.read_text()


def test_the_reason_is_told_why_no_version_is_good(service, config, ctx, monkeypatch):
    """
    If the good version could not be kept, the action says so.
    """

    def full(_target, _content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selfheal.resources.config_store.prepare", full)
    run(service, config, None, until=60)
    with pytest.raises(Escalate, match=r"no version is known to be good yet: OSError: .*No space left"):
        RollbackConfig(config).recover(ctx)


def test_nothing_is_rolled_forward_that_was_not_rolled_back(config, ctx):
    """
    Alone the way forward escalates and does nothing.
    """
    with pytest.raises(Escalate, match="app_conf is not rolled back in this incident"):
        RollForwardConfig(config).recover(ctx)


def test_as_a_ladder_it_has_the_way_forward_behind_it(config):
    """
    Whoever says rollback gets the way forward as well; a rung of one's own makes both explicit.
    """
    names = [each.name for each in RollbackConfig(config).as_ladder().rungs]
    composed = (rung(RollbackConfig(config), settle=2) >> RollForwardConfig(config)).rungs
    assert ["rollback_config", "roll_forward_config"] == names == [each.name for each in composed]


def test_plans_say_what_would_be_done_and_change_nothing(service, config):
    """
    A plan names the files and the version; before there is one it says that.
    """
    assert f"nothing: no good version of {service.path}" == RollbackConfig(config).plan()
    run(service, config, None, until=60)
    assert f"put {service.path} back to version {config.good[:12]} and reload" == RollbackConfig(config).plan()
    assert f"undo a rollback of {service.path} that was no help, and reload" == RollForwardConfig(config).plan()
    assert f"<ConfigFiles app_conf: {service.path}>" == repr(config)
