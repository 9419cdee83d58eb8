from bench.conformance import *  # noqa: F403
