"""Property tests here are bounded in examples, not in time: a busy machine is no defect."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sampan", deadline=None)
settings.load_profile("sampan")
