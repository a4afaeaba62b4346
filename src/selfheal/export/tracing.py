"""
Events in, OpenTelemetry spans out. Only its API is needed; without an SDK every span costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from selfheal import names
from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, MissingExtraError
from selfheal.export.exemplars import Traces, recorded


if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

    from selfheal.clock import Clock
    from selfheal.healer import Healer
    from selfheal.model import Event, Field

_BILLION: Final = 1_000_000_000

#: Fields that are attributes of a span as they are. All are names, numbers, or words from closed lists.
_ATTRIBUTES: Final = ("action", "rung", "attempt", "outcome", "revert", "kind", "status")


class TraceExporter:
    """
    Makes spans of what a healer does.

    - ``selfheal.incident``: from the first bad result to the end of probation;
    - ``selfheal.recovery``: an action, or the revert of one;
    - ``selfheal.verification``: from its end to the proof that it has helped, or has not;
    - ``selfheal.probe``: one run of a check. Bad ones always, good ones by *probe_share*.

    Each is a trace of its own, since an incident may last for hours, and the last three have a link to the incident
    that was open. Attributes are names, numbers and words from closed lists; no text of an exception gets into one.
    Metrics of an incident that is recorded carry its trace as exemplar, if this is attached before the healer starts.

    Args:
        provider: Default: the global one.
        probe_share: Of the good runs of each check that get a span, 0 to 1: 0.01 is every hundredth.
        clock: The healer's.

    Raises:
        ConfigError: If *probe_share* is out of range.
        MissingExtraError: If the extra ``otel`` is not installed.

    Examples:
        ``TraceExporter().attach(healer)``

    .. versionadded:: 26.1.0
    """

    def __init__(
        self, provider: TracerProvider | None = None, *, probe_share: float = 0.01, clock: Clock | None = None
    ) -> None:
        if not 0 <= probe_share <= 1:
            msg = f"probe_share={probe_share!r}: must be from 0 to 1; 0.01 is every hundredth run."
            raise ConfigError(msg)
        try:
            from opentelemetry import trace
        except ImportError as exc:
            msg = "traces need OpenTelemetry's API: pip install 'selfheal-core[otel]'"
            raise MissingExtraError(msg) from exc
        self._trace = trace
        self._tracer: Tracer = trace.get_tracer("selfheal", tracer_provider=provider)
        self._share = probe_share
        self._clock: Clock = SystemClock() if clock is None else clock

    def attach(self, healer: Healer) -> Callable[[], None]:
        """
        Follow *healer* from now on.

        Returns:
            A function that ends it. Spans of open incidents end with it.
        """
        follower = _Follower(self._tracer, self._trace, self._share, self._clock)
        remove = healer.on_event(follower, events=tuple(follower.handlers))
        recorded[healer] = follower.traces

        def end() -> None:
            remove()
            follower.traces.clear()
            follower.end_all(self._clock.now())

        return end


class _Follower:
    """
    The spans of one healer. It is called from one thread, in order.
    """

    def __init__(self, tracer: Tracer, trace: Any, share: float, clock: Clock) -> None:
        self._tracer = tracer
        self._trace = trace
        self._share = share
        self._clock = clock
        #: By check: the incident's span, since when an action has to prove itself, and good runs not yet told.
        self._incidents: dict[str, Span] = {}
        self.traces: Final[Traces] = {}
        self._proving: dict[str, tuple[float, Event]] = {}
        self._untold: dict[str, float] = {}
        self.handlers: Final[dict[str, Callable[[Event], None]]] = {
            names.CHECK_COMPLETED: self._probe,
            names.INCIDENT_OPENED: self._opened,
            names.INCIDENT_CLOSED: self._closed,
            names.ACTION_FINISHED: self._action,
            names.HEALING_VERIFIED: self._proved,
            names.HEALING_REFUTED: self._proved,
            names.HEALER_STOPPED: lambda event: self.end_all(event.at),
        }

    def __call__(self, event: Event) -> None:
        self.handlers[event.name](event)

    def end_all(self, now: float) -> None:
        """
        End the spans of incidents that are still open.
        """
        for span in self._incidents.values():
            span.end(self._wall(now))
        self._incidents.clear()
        self._proving.clear()

    def _probe(self, event: Event) -> None:
        check, well = event.check, event.fields.get("status") in {"healthy", "degraded"}
        if well:
            self._untold[check] = untold = self._untold.get(check, 0.0) + self._share
            if untold < 1:
                return
            self._untold[check] = untold - 1
        duration = event.fields.get("duration")
        began = event.at - duration if isinstance(duration, float) else event.at
        self._span("selfheal.probe", event, began, event.at, well=well)

    def _opened(self, event: Event) -> None:
        detect = event.fields.get("time_to_detect")
        began = event.at - detect if isinstance(detect, float) else event.at
        self._incidents[event.check] = span = self._begin("selfheal.incident", event, began)
        self.traces.pop(event.check, None)
        if span.is_recording():
            self.traces[event.check] = event.incident, self._trace.format_trace_id(span.get_span_context().trace_id)

    def _closed(self, event: Event) -> None:
        self._proving.pop(event.check, None)
        span = self._incidents.pop(event.check, None)
        if span is not None:
            span.set_attribute("selfheal.result", str(event.fields.get("result")))
            span.end(self._wall(event.at))

    def _action(self, event: Event) -> None:
        duration = event.fields.get("duration")
        began = event.at - duration if isinstance(duration, float) else event.at
        done = event.fields.get("outcome") == "done"
        self._span("selfheal.recovery", event, began, event.at, well=done)
        if done and not event.fields.get("revert"):
            self._proving[event.check] = event.at, event

    def _proved(self, event: Event) -> None:
        since = self._proving.pop(event.check, None)
        if since is not None:
            self._span("selfheal.verification", event, since[0], event.at, well=event.name == names.HEALING_VERIFIED)

    def _span(self, name: str, event: Event, began: float, ended: float, *, well: bool) -> None:
        incident = self._incidents.get(event.check)
        links = [] if incident is None else [self._trace.Link(incident.get_span_context())]
        span = self._begin(name, event, began, links)
        if not well:
            span.set_status(self._trace.StatusCode.ERROR)
        if event.error is not None:
            span.set_attribute("error.type", type(event.error).__name__)
        span.end(self._wall(ended))

    def _begin(self, name: str, event: Event, began: float, links: list[Link] | None = None) -> Span:
        from opentelemetry.context import Context

        attributes: dict[str, Any] = {"selfheal.check": event.check, "selfheal.resource": event.resource}
        if event.incident is not None:
            attributes["selfheal.incident"] = event.incident
        attributes.update(_known(event.fields))
        # In a context of its own: what happens to run on the thread of the events is not its parent.
        return self._tracer.start_span(
            name, context=Context(), attributes=attributes, links=links or [], start_time=self._wall(began)
        )

    def _wall(self, at: float) -> int:
        return int((self._clock.wall() + at - self._clock.now()) * _BILLION)


def _known(fields: Any) -> dict[str, Field]:
    return {f"selfheal.{name}": fields[name] for name in _ATTRIBUTES if fields.get(name) is not None}
