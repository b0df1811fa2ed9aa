"""No test asserts a time: Hypothesis would, by its deadline for every example, and fail where a machine is busy."""

from hypothesis import settings

settings.register_profile("anyglot", deadline=None)
settings.load_profile("anyglot")
