"""What holds for all tests."""

import os

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, or that a sanitizer watches, and nothing of us.
settings.register_profile("otagate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Forty times as slow: what valgrind finds, it finds in few examples or in none.
settings.register_profile("valgrind", settings.get_profile("otagate"), max_examples=5)
settings.load_profile("valgrind" if "OTAGATE_VALGRIND" in os.environ else "otagate")
