"""
What checks accept, what they refuse, and what a probe's answer means.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import functools
import math

import attrs
import hypothesis.strategies as st
import pytest

from hypothesis import given

from selfheal.answers import MESSAGE_LIMIT, interpret, interpret_error
from selfheal.checks import HealthCheck, health_check, resolve
from selfheal.errors import ConfigError, Unhealthy
from selfheal.model import FAULT_KINDS, Budget, CheckResult, Fault, HealingPolicy, HealthStatus, Ladder
from selfheal.monitors import LatencyMonitor
from selfheal.recovery import recovery_action, rung


HEALTHY, DEGRADED, UNHEALTHY, UNKNOWN = HealthStatus
KINDS = FAULT_KINDS | {"lagging"}


def probe():
    """A good probe."""


@recovery_action
def drain(ctx):
    """An action."""


@recovery_action
def rebuild(ctx):
    """Another action."""


def settings(check):
    """What a check consists of."""
    return attrs.asdict(check, recurse=False)


class Service:
    """Has probes as methods."""

    @health_check(name="service", interval=7)
    def check(self):
        """Marked."""
        return self

    def plain(self):
        """Not marked."""

    def __call__(self):
        """Callable."""


class TestMark:
    def test_returns_the_function_unchanged(self):
        """
        With and without parentheses the very same function comes back, sync or async.
        """

        async def async_probe():
            """A probe."""

        def sync_probe():
            """A probe."""

        assert sync_probe is health_check(sync_probe)
        assert async_probe is health_check(interval=3)(async_probe)
        assert ["sync_probe", "async_probe"] == [resolve(each).name for each in (sync_probe, async_probe)]

    def test_takes_the_options_of_a_health_check(self):
        """
        What stands in the parentheses is what `HealthCheck` is told.
        """
        latency = LatencyMonitor(5, 100)
        options = {
            "name": "db",
            "resource": "orders",
            "interval": dt.timedelta(seconds=20),
            "timeout": 2,
            "fall": 4,
            "rise": 1,
            "monitors": [latency],
            "recovery": drain >> rebuild,
            "depends_on": ["network"],
            "shared": True,
            "kinds": ["lagging"],
            "budget": Budget(3, per=600),
        }

        @health_check(**options)
        def orders_db():
            """A probe."""

        check = resolve(orders_db)
        assert settings(HealthCheck(orders_db, **options)) == settings(check)
        assert (orders_db, "db", "orders") == (check.probe, check.name, check.resource)
        assert HealingPolicy(interval=20, timeout=2, fall=4, rise=1) == check.policy
        assert ((latency,), drain >> rebuild, ("network",)) == (check.monitors, check.recovery, check.depends_on)
        assert (True, KINDS, Budget(3, per=600)) == (check.shared, check.kinds, check.budget)

    def test_follows_a_method_to_its_instance(self):
        """
        A bound method of a marked function is a check whose probe is that method.
        """
        service = Service()
        check = resolve(service.check)

        assert ("service", 7.0) == (check.name, check.policy.interval)
        assert service is check.probe()

    @pytest.mark.parametrize(
        ("mark", "what"),
        [
            (lambda: health_check("db"), r"marks a function, not 'db'\. Options are keywords"),
            (lambda: health_check(Service), "marks a function, not <class"),
            (lambda: health_check(staticmethod(probe)), "Put @staticmethod above @health_check"),
            (lambda: health_check(classmethod(probe)), "Put @classmethod above @health_check"),
            (lambda: health_check(len), r"<built-in function len> cannot be marked\. Write HealthCheck"),
        ],
    )
    def test_refuses_what_cannot_be_marked(self, mark, what):
        """
        The error says what was given and what to write instead.
        """
        with pytest.raises(ConfigError, match=what):
            mark()

    def test_refuses_a_second_mark(self):
        """
        One function is one check; a second is made with `HealthCheck`.
        """

        def once():
            """A probe."""

        health_check(once)
        with pytest.raises(ConfigError, match=r"is a health check already\. For a second one write HealthCheck"):
            health_check(once)

    def test_does_not_know_other_options(self):
        """
        A misspelled option is a TypeError that names it.
        """
        with pytest.raises(TypeError, match="intervall"):
            health_check(intervall=5)(probe)


class TestResolve:
    def test_returns_a_health_check_as_it_is(self):
        """
        What is a check already needs no mark.
        """
        check = HealthCheck(probe)

        assert check is resolve(check)

    @pytest.mark.parametrize("item", [probe, None, "db", 3, drain, Service().plain])
    def test_refuses_what_is_no_check(self, item):
        """
        An unmarked function is not taken for a probe.
        """
        with pytest.raises(ConfigError, match=r"is not a health check. Decorate it with @health_check"):
            resolve(item)

    def test_refuses_a_probe_that_needs_an_argument(self):
        """
        The error names the function: one with a parameter, and a method without its instance.
        """

        def needs_two(url, more):
            """A probe."""

        with pytest.raises(ConfigError, match=r"Service\.check\(\) needs an argument"):
            resolve(Service.check)
        with pytest.raises(ConfigError, match=r"needs_two\(\) needs an argument.*functools\.partial"):
            resolve(HealthCheck(needs_two))
        with pytest.raises(ConfigError, match=r"x\(\) needs an argument"):
            resolve(HealthCheck(functools.partial(needs_two, "url"), name="x"))

    def test_takes_probes_whose_arguments_are_bound_or_have_defaults(self):
        """
        A default or a partial leaves nothing to be given.
        """

        def with_default(url="x"):
            """A probe."""

        assert "with_default" == resolve(HealthCheck(with_default)).name
        assert "with_default" == resolve(HealthCheck(functools.partial(with_default, url="y"))).name
        assert resolve(HealthCheck(name="m", monitors=[LatencyMonitor(5, 1)])).probe is None


class TestName:
    def test_comes_from_the_probe(self):
        """
        Functions, methods, partials and callable objects lend their name in snake_case.
        """

        def checkDB():  # noqa: N802
            """A probe."""

        probes = [checkDB, Service().plain, Service(), functools.partial(functools.partial(probe))]
        assert ["check_db", "plain", "service", "probe"] == [HealthCheck(each).name for each in probes]

    def test_is_the_resource_unless_told(self):
        """
        A check heals what it is named after.
        """
        assert ("x", "x") == (HealthCheck(probe, name="x").name, HealthCheck(probe, name="x").resource)

    @pytest.mark.parametrize("name", ["a name", "Upper", "", "x" * 64, 5, "ä"])
    def test_must_be_a_metric_label(self, name):
        """
        Names, resources and dependencies end up in metrics and URLs.
        """
        with pytest.raises(ConfigError, match=r"the check's name .* is not usable"):
            HealthCheck(probe, name=name)
        with pytest.raises(ConfigError, match=r"the resource's name .* is not usable"):
            HealthCheck(probe, resource=name)
        with pytest.raises(ConfigError, match=r"the dependency .* is not usable"):
            HealthCheck(probe, depends_on=[name])

    def test_is_asked_for_where_there_is_none(self):
        """
        A lambda and a check without a probe have no name of their own.
        """
        with pytest.raises(ConfigError, match="'<lambda>'"):
            HealthCheck(lambda: None)
        with pytest.raises(ConfigError, match="A check without a probe has nothing to be named after"):
            HealthCheck(monitors=[LatencyMonitor(5, 1)])


class TestHealthCheck:
    def test_cannot_be_changed_but_evolved(self):
        """
        It is frozen, equal to itself only, and `attrs.evolve` makes another.
        """
        check = HealthCheck(probe, name="x", recovery=drain, kinds=["lagging"])

        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            check.name = "y"
        assert hash(check) == hash(check)
        assert check != attrs.evolve(check)
        assert settings(check) == settings(attrs.evolve(check))
        assert {**settings(check), "name": "y"} == settings(attrs.evolve(check, name="y"))
        assert "HealthCheck('x')" == repr(check)

    def test_has_defaults(self):
        """
        Nothing but a probe is needed.
        """
        check = HealthCheck(probe)

        assert (HealingPolicy(), (), Ladder(), (), False, False, FAULT_KINDS, None) == (
            check.policy,
            check.monitors,
            check.recovery,
            check.depends_on,
            check.shared,
            check.self_doubt,
            check.kinds,
            check.budget,
        )

    @pytest.mark.parametrize("shorthand", [{"interval": 5}, {"timeout": 1}, {"fall": 2}, {"rise": 1}])
    def test_refuses_a_policy_with_a_part_of_one(self, shorthand):
        """
        Nobody could tell which of the two counts.
        """
        with pytest.raises(ConfigError, match=f"has a policy and {next(iter(shorthand))} as well"):
            HealthCheck(probe, policy=HealingPolicy(), **shorthand)

    def test_refuses_numbers_that_cannot_work(self):
        """
        The policy's own errors come through.
        """
        with pytest.raises(ConfigError, match="interval=0"):
            HealthCheck(probe, interval=0)
        with pytest.raises(ConfigError, match="nan is not a time"):
            HealthCheck(probe, timeout=math.nan)

    @pytest.mark.parametrize("given", [probe, "db", 3])
    def test_refuses_what_is_no_probe(self, given):
        """
        A probe can be called; a class would be built anew each time.
        """
        if given is probe:
            given = Service
        with pytest.raises(ConfigError, match=r"is not a probe. Give a function"):
            HealthCheck(given, name="x")

    def test_refuses_a_check_of_nothing(self):
        """
        Without probe and monitors there is nothing to look at.
        """
        with pytest.raises(ConfigError, match="check 'x' has neither a probe nor a monitor"):
            HealthCheck(name="x")

    @pytest.mark.parametrize("monitor", [3, object(), LatencyMonitor, probe])
    def test_refuses_what_is_no_monitor(self, monitor):
        """
        A monitor is an object with assess and forget; its class is not one.
        """
        with pytest.raises(ConfigError, match=r"is not a monitor. It needs the methods"):
            HealthCheck(probe, monitors=[monitor])

    @pytest.mark.parametrize("what", ["monitors", "depends_on", "kinds"])
    @pytest.mark.parametrize("value", ["db", 3, None])
    def test_refuses_a_single_value_for_a_sequence(self, what, value):
        """
        A string would become its letters.
        """
        with pytest.raises(ConfigError, match=f"{what}={value!r} must be a sequence"):
            HealthCheck(probe, **{what: value})

    def test_refuses_kinds_that_are_no_names(self):
        """
        Fault kinds are metric labels.
        """
        with pytest.raises(ConfigError, match="fault kind 'Bad Kind'"):
            HealthCheck(probe, kinds=["Bad Kind"])

    def test_takes_actions_ladders_and_functions_as_recovery(self):
        """
        One action is a ladder of one rung.
        """

        def restart(ctx):
            """A function."""

        assert drain.as_ladder() == HealthCheck(probe, recovery=drain).recovery
        assert drain >> rebuild == HealthCheck(probe, recovery=drain >> rebuild).recovery
        assert ["restart"] == [step.name for step in HealthCheck(probe, recovery=restart).recovery.rungs]
        with pytest.raises(ConfigError, match="3 is not a function"):
            HealthCheck(probe, recovery=3)

    @pytest.mark.parametrize("other", [{"shared": True}, {"depends_on": ["db"]}])
    def test_speaks_for_this_process_alone(self, other):
        """
        A check with self_doubt=True has no say over others of which others have a say over it.
        """
        assert HealthCheck(probe, name="x", self_doubt=True).self_doubt
        with pytest.raises(ConfigError, match=f"self_doubt=True and {next(iter(other))}=.*Drop one of them"):
            HealthCheck(probe, name="x", self_doubt=True, **other)

    def test_depends_on_checks_or_their_names(self):
        """
        Names, marked functions, methods and checks will do; the same one twice counts once.
        """

        @health_check(name="network")
        def net():
            """A probe."""

        given = [net, "network", Service().check, HealthCheck(probe, name="dns")]
        assert ("network", "service", "dns") == HealthCheck(probe, name="x", depends_on=given).depends_on

    def test_cannot_depend_on_itself_or_on_an_unmarked_function(self):
        """
        Either would never be found.
        """
        with pytest.raises(ConfigError, match="check 'x' depends on itself"):
            HealthCheck(probe, name="x", depends_on=["x"])
        with pytest.raises(ConfigError, match="the dependency"):
            HealthCheck(probe, name="x", depends_on=[probe])

    def test_refuses_a_verification_that_cannot_succeed(self):
        """
        Each rung is held against the policy when the check is built.
        """
        with pytest.raises(ConfigError, match=r"rung 'rebuild'.*verify_within=3.* can never be met"):
            HealthCheck(probe, recovery=drain >> rung(rebuild, verify_within=3))
        with pytest.raises(ConfigError, match=r"rung 'drain'.*settle=40"):
            HealthCheck(probe, recovery=rung(drain, settle=40))

    def test_refuses_a_budget_that_could_never_close(self):
        """
        Ten actions that are a minute apart never fall into one minute.
        """
        with pytest.raises(ConfigError, match=r"Budget\(10, per=60\) could never close for check 'x'"):
            HealthCheck(probe, name="x", recovery=rung(drain, cooldown=60), budget=Budget(10, per=60))


class TestAnswers:
    @pytest.mark.parametrize("answer", [None, True, HEALTHY, CheckResult.healthy()])
    def test_that_are_healthy(self, answer):
        """
        Nothing, True, the status and a result say that all is well.
        """
        assert CheckResult.healthy() == interpret(answer, KINDS)

    def test_that_are_bad(self):
        """
        False and the bare statuses get a fault of kind error.
        """
        assert CheckResult.unhealthy("error", message="the probe answered False") == interpret(False, KINDS)
        assert CheckResult.unhealthy("error", message="the probe answered unhealthy") == interpret(UNHEALTHY, KINDS)
        degraded = interpret(DEGRADED, KINDS)
        assert (DEGRADED, "error: the probe answered degraded") == (degraded.status, str(degraded.fault))

    def test_that_know_nothing(self):
        """
        A probe may say that it does not know; that is nobody's fault.
        """
        assert CheckResult(UNKNOWN) == interpret(UNKNOWN, KINDS)

    @pytest.mark.parametrize("answer", ["ok", 1, 0, 1.0, {}, object(), [True], math.nan, Fault("error"), HealthStatus])
    def test_that_are_nonsense(self, answer):
        """
        Anything else is a mistake of the probe, and healed by nobody.
        """
        result = interpret(answer, KINDS)

        assert (UNKNOWN, "probe_error") == (result.status, result.fault.kind)
        assert f"the probe answered a {type(answer).__name__}; it may answer None" in result.fault.message

    def test_that_are_results(self):
        """
        A result is taken as it is, with its data; its times are the runner's to fill in.
        """
        given = attrs.evolve(
            CheckResult.unhealthy("lagging", fatal=True, message="9 s", started_at=math.nan, duration=-1.0),
            data={"lag": math.nan},
        )
        result = interpret(given, KINDS)

        assert CheckResult.unhealthy("lagging", fatal=True, message="9 s") == result
        assert given.data is result.data

    def test_with_a_kind_that_is_not_declared(self):
        """
        An undeclared kind would be a label that nobody knows: the error names the declared ones.
        """
        result = interpret(CheckResult.unhealthy("lag"), KINDS)

        assert (UNKNOWN, "probe_error") == (result.status, result.fault.kind)
        assert "fault kind 'lag' is not declared" in result.fault.message
        assert "Declared there: lagging. Always there: anomaly, auth" in result.fault.message
        assert "Declared there: none." in interpret(CheckResult.unhealthy("lag"), FAULT_KINDS).fault.message

    @pytest.mark.parametrize(
        "answer",
        [
            CheckResult("healthy"),
            CheckResult(UNHEALTHY, fault="error"),
            CheckResult(UNHEALTHY, fault=Fault(["error"])),
            CheckResult(UNHEALTHY, fault=Fault(None)),
            CheckResult(DEGRADED, fault=Fault("x" * 10_000)),
        ],
    )
    def test_with_nonsense_inside(self, answer):
        """
        A result of the wrong stuff is a mistake of the probe, not a crash.
        """
        result = interpret(answer, KINDS)

        assert (UNKNOWN, "probe_error") == (result.status, result.fault.kind)
        assert len(result.fault.message) < MESSAGE_LIMIT

    def test_with_data_that_is_none(self):
        """
        Data that is no mapping is dropped; a healthy result has no fault.
        """
        result = interpret(CheckResult(HEALTHY, data=3, fault=Fault("error")), KINDS)

        assert ({}, None) == (result.data, result.fault)

    @given(
        status=st.one_of(st.sampled_from(HealthStatus), st.none(), st.floats()),
        fault=st.one_of(st.none(), st.builds(Fault, st.one_of(st.sampled_from(sorted(KINDS)), st.text(), st.floats()))),
        data=st.one_of(st.none(), st.dictionaries(st.text(), st.floats())),
        when=st.one_of(st.none(), st.floats()),
    )
    def test_always_mean_something(self, status, fault, data, when):
        """
        Whatever stands in a result, what comes out is a status with a fault of a declared kind, or none.
        """
        result = interpret(CheckResult(status, fault=fault, data=data, started_at=when, duration=when), KINDS)

        assert isinstance(result.status, HealthStatus)
        assert (None, None) == (result.started_at, result.duration)
        assert (result.fault is None) or result.fault.kind in KINDS
        assert (result.fault is None) <= (result.status in {HEALTHY, UNKNOWN})


def raised(function, *args):
    """What a function raised, with its traceback."""
    try:
        outcome = function(*args)
        if asyncio.iscoroutine(outcome):
            asyncio.run(outcome)
    except BaseException as exc:
        return exc
    raise AssertionError("it did not raise")


def misspells():
    undefined  # noqa: B018, F821


def mistypes():
    len(3)


def misimports():
    import not_a_module_at_all  # noqa: F401


def misparses():
    compile("(", "", "exec")


def misspells_inside():
    return [undefined for _ in range(3)]  # noqa: F821


async def mistypes_later():
    len(3)


class Mistaken:
    def __call__(self):
        len(3)

    def method(self):
        len(3)


@functools.wraps(misspells)
def wraps():
    return misspells()


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (ValueError("x"), "error"),
            (TimeoutError("x"), "timeout"),
            (PermissionError(errno.EACCES, "x"), "auth"),
            (OSError(errno.ENOSPC, "x"), "full"),
            (OSError(errno.EDQUOT, "x"), "full"),
            (OSError(errno.ECONNREFUSED, "x"), "error"),
            (ConnectionResetError("x"), "error"),
            (TypeError("x"), "error"),
        ],
    )
    def test_have_a_kind(self, error, kind):
        """
        An exception is unhealthy, of a kind that follows from its class.
        """
        result = interpret_error(error, KINDS, probe)

        assert (UNHEALTHY, kind, error) == (result.status, result.fault.kind, result.fault.error)
        assert result.fault.message.startswith(type(error).__name__)
        assert not result.fault.fatal

    def test_that_say_what_is_wrong(self):
        """
        `Unhealthy` names the fault itself, if its kind is declared.
        """
        result = interpret_error(Unhealthy("lagging", "9 s", fatal=True), KINDS)
        assert (UNHEALTHY, "lagging", True) == (result.status, result.fault.kind, result.fault.fatal)
        assert "9 s" in result.fault.message

        result = interpret_error(Unhealthy("lagging"), FAULT_KINDS)
        assert (UNKNOWN, "probe_error") == (result.status, result.fault.kind)
        assert "fault kind 'lagging' is not declared. Declare it with kinds=[...]" in result.fault.message

    def test_in_the_probes_own_lines_are_its_mistake(self):
        """
        Wrong names, types and imports in the probe itself are UNKNOWN: nothing is healed because of a typo.
        """

        probes = [misspells, mistypes, misimports, misparses, misspells_inside, mistypes_later, wraps]
        for each in [*probes, Mistaken(), Mistaken().method, functools.partial(functools.partial(mistypes))]:
            result = interpret_error(raised(each), KINDS, each)
            assert (UNKNOWN, "probe_error") == (result.status, result.fault.kind), each
            assert result.fault.error is not None

    def test_of_the_same_classes_further_down_are_faults(self):
        """
        What a library raises is the resource's failing, whatever its class.
        """

        def driver():
            len(3)

        def calls():
            driver()

        def catches():
            try:
                driver()
            except TypeError as exc:
                raise ValueError from exc

        for each in (calls, catches):
            result = interpret_error(raised(each), KINDS, each)
            assert (UNHEALTHY, "error") == (result.status, result.fault.kind)
        assert "error" == interpret_error(raised(calls), KINDS).fault.kind

    def test_that_are_no_exceptions_are_the_probes_mistake(self):
        """
        A probe that exits the program is reported, not healed.
        """
        result = interpret_error(SystemExit(3), KINDS, probe)

        assert (UNKNOWN, "probe_error", "SystemExit: 3") == (result.status, result.fault.kind, result.fault.message)

    def test_that_cannot_be_printed_still_count(self):
        """
        An exception whose text raises, or is endless, is told by its class and its beginning.
        """

        class MuteError(Exception):
            def __str__(self):
                raise RuntimeError

        class ChattyError(Exception):
            def __str__(self):
                return "x" * 10**6

        assert "MuteError" == interpret_error(MuteError(), KINDS).fault.message
        assert MESSAGE_LIMIT == len(interpret_error(ChattyError(), KINDS).fault.message)
