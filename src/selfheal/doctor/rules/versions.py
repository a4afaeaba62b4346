"""
Which version of a library is loaded.
"""

from __future__ import annotations

import re
import sys


def older(module: str, than: tuple[int, ...]) -> str:
    """
    The version of a loaded module if it is older than that, else nothing.
    """
    version = str(getattr(sys.modules.get(module), "__version__", ""))
    numbers = tuple(map(int, re.findall(r"\d+", version)[: len(than)]))
    return version if numbers and numbers < than else ""
