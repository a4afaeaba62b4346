"""
A flag of OpenFeature, forced off by a held action through an overlay in front of its provider: the page's recipe.
"""

from __future__ import annotations

import pytest

from selfheal import HealthCheck, RecoveryAction
from selfheal.testing import VirtualClock, simulate


openfeature = pytest.importorskip("openfeature")


def test_an_overlay_forces_a_flag_that_nobody_can_write():
    """
    OpenFeature cannot set a flag; the overlay can, for this process, and the flag is its provider's again afterwards.
    """
    from openfeature import api
    from openfeature.flag_evaluation import FlagResolutionDetails, Reason
    from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

    class Overlay(InMemoryProvider):
        """The flags of a provider, but for those that are forced."""

        forced: dict[str, bool]

        def resolve_boolean_details(self, flag_key, default_value, evaluation_context=None):
            if flag_key in self.forced:
                return FlagResolutionDetails(self.forced[flag_key], reason=Reason.STATIC)
            return super().resolve_boolean_details(flag_key, default_value, evaluation_context)

    overlay = Overlay({"recommendations": InMemoryFlag("on", {"on": True, "off": False})})
    overlay.forced = {}
    api.set_provider_and_wait(overlay)
    client, clock = api.get_client(), VirtualClock()
    assert not [name for name in dir(client) if name.startswith(("set", "put", "write"))]

    def recommend() -> None:
        if 60 <= clock.now() < 300:
            raise ConnectionRefusedError

    class FlagOff(RecoveryAction):
        name = "recommendations_off"
        revert_when = staticmethod(recommend)

        def recover(self, ctx) -> None:
            overlay.forced["recommendations"] = False

        def revert(self, ctx) -> None:
            overlay.forced.pop("recommendations", None)

    seen = []

    def shop() -> None:
        seen.append((clock.now(), is_on := client.get_boolean_value("recommendations", False)))
        if is_on:
            recommend()

    try:
        story = simulate(
            [HealthCheck(shop, name="shop", interval=5, timeout=1, recovery=FlagOff())], until=600, clock=clock
        )
    finally:
        api.shutdown()
        api.clear_providers()
    off = [at for at, is_on in seen if not is_on]
    assert ["healed"] == [incident.result.value for incident in story.incidents]
    assert 60 < min(off) < max(off) < 400
    assert (True, True) == (seen[0][1], seen[-1][1])
