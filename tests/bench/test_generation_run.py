"""An agent that was made for control, on a sampler: from its configuration to its scores."""

from __future__ import annotations

import json

import numpy as np


def test_td3_learns_to_generate(small, train, tmp_path):
    """Its first actions leave the data altogether. At beta = 0 what the penalty costs is the score error, but for noise."""
    config = small("td3(actor_hidden=[32,32],critic_hidden=[32,32],batch_size=64)", "env.beta=0", "env.steps=10", "steps=1400",
                   "warmup=400", "eval_every=1400", "log_every=700", "checkpoint_every=1400", "eval.episodes=2048",
                   env="generation/gmm1d")  # fmt: skip
    assert (config.env["bounded"], config.env["num_envs"]) == (True, 1)
    assert train(config, tmp_path) == "done"
    first, last = (json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines())
    assert first["scores"]["KL"][0] > 5
    assert last["scores"]["KL"][0] < 2.5
    error = last["scores"]["score error"][0]
    assert error < 50
    assert abs(np.mean(last["returns"]) + error) < 0.1 * error
