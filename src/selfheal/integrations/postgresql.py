"""
What every driver of PostgreSQL asks its server, and how a refusal is told.
"""

from __future__ import annotations

import re

from typing import Final


#: Also true where an operator, or a full disk, has made a primary read-only.
READ_ONLY: Final = "pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"

#: Connections that the server could still take.
FREE: Final = """
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""

#: What a server says about class 28. libpq keeps no SQLSTATE of a connection that failed, so the text has to do.
REFUSED: Final = re.compile(
    "authentication failed|no password supplied|pg_hba.conf|role .* does not exist|not permitted to log in"
)

#: And what it says with SQLSTATE 53300, when it takes no more connections.
FULL: Final = re.compile("too many clients|too many connections|remaining connection slots")
