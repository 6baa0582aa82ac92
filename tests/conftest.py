"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, or that a sanitizer watches, and nothing of us.
settings.register_profile("otagate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("otagate")
