"""For all tests: random examples are the same in each run, and no clock judges them."""

import hypothesis

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    # They measure time, which on a busy machine says nothing of the test.
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")
