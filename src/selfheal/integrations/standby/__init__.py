"""
What the adapters that let clients follow a `selfheal.resources.Router` have in common.

They stand beside the driver they are for: `selfheal.integrations.psycopg.standby`,
`selfheal.integrations.sqlalchemy.standby`, `selfheal.integrations.asyncpg.standby`.
"""

from __future__ import annotations

from typing import Final


#: Seconds to connect, and seconds for an answer: a role must be told soon, or not at all.
PATIENCE: Final = 2

#: Whether nothing can be written, and the file that is written to now, whose first eight digits are the timeline.
POSTGRES_ROLE: Final = """
    SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END
"""


def postgres_role(read_only: bool, walfile: str | None) -> tuple[str, int | None]:
    """
    The role that an answer to `POSTGRES_ROLE` stands for; its generation is the timeline, which grows with a promotion.
    """
    return "standby" if read_only else "primary", None if walfile is None else int(walfile[:8], 16)
