"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# A shell starts what runs in its background with Ctrl-C ignored, and the processes that tests start
# and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whether an example takes 200 ms tells of what else the machine does.
settings.register_profile("spanmesh", deadline=None)
settings.load_profile("spanmesh")
