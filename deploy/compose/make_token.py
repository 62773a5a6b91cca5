"""Makes the token that scrapers show to the gateway, where there is none yet: `make_token.py FILE`.

Everybody in the container may read it; the volume that it is in is given only to who needs it.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

file = Path(sys.argv[1])
if not file.exists():
    unfinished = file.with_suffix(".new")
    unfinished.write_text(secrets.token_urlsafe(32))
    unfinished.chmod(0o444)
    unfinished.rename(file)
