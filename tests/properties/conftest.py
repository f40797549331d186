"""One Hypothesis profile for all properties.

No deadline, because other work shares the machine, and the same examples on every run, so that a red gate means a
change. STREAMCRYPT_TEST_HYPOTHESIS=default explores further.
"""

from __future__ import annotations

import os

import hypothesis

hypothesis.settings.register_profile(
    "gate",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("STREAMCRYPT_TEST_HYPOTHESIS", "gate"))
