"""
The words for what can be wrong.
"""

from __future__ import annotations

from typing import Final


#: The fault kinds that the library itself uses. More are declared by ``kinds=`` on a check.
FAULT_KINDS: Final = frozenset(
    {
        "error",
        "timeout",
        "down",
        "stale",
        "backoff",
        "auth",
        "read_only",
        "exhausted",
        "stuck",
        "slow",
        "anomaly",
        "corrupt",
        "full",
        "poisoned",
        "grown",
        "cold",
        "probe_error",
    }
)
