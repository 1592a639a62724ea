"""Settings of all tests."""

import os

from hypothesis import settings

# A slow machine is no failure; and one commit's tests give one answer.
settings.register_profile("project", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("project")
