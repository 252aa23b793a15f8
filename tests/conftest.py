"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # how fast a machine is decides nothing here
settings.load_profile("no deadline")
