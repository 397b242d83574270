"""Defaults of a run by its preset and method: small, which suits a small model and rewards in [0, 1], or paper."""

from dataclasses import replace

from agents.sequences.config import MethodName, SequenceConfig
from runners.lm.config import LMConfig

BATCHES = ("sft", "dpo")
"""Methods that take batches of data, not rollouts."""
PAPER = {
    "awr": {"agent": {"lambda_behaviour": 1.0, "standardise_advantages": True, "max_weight": 20.0}},
    "dar": {
        "agent": {
            "lambda_reference": 0.005,
            "lambda_behaviour": 0.045,
            "standardise_advantages": True,
            "max_weight": 20.0,
        },
        "data": {"completions": 4, "sampling_temperature": 0.9},
        "learner": {"updates": 4},
    },
    "dpo": {"agent": {"dpo_beta": 0.1}, "data": {"prompts": 64}, "learner": {"updates": 1}},
    "rl-em": {"agent": {"lambda_reference": 0.1}, "data": {"completions": 4, "sampling_temperature": 0.9}},
    "vmpo": {"agent": {"epsilon_eta": 0.02, "epsilon_alpha": 0.01, "alpha_init": 5.0, "top_k": 0.5}},
}
"""Settings that papers give. AWR (arXiv 1910.00177): w_max = 20, and beta = 1 on standardised advantages, as in its
authors' code; its text has 0.05 for rewards in their own units. DAR (arXiv 2504.14177, App. D): alpha + beta = 0.05,
alpha a tenth of it; its four updates are on a quarter of the batch each, here on all of it. DPO (arXiv 2305.18290, App.
B). V-MPO (arXiv 1909.12238, table 1; discrete actions). RL-EM has no published numbers: its beta is that of DPO, which
has the same objective, the rest is DAR's. Learning rates depend on the size of the model, and are not set."""


def small(method: MethodName, **choices: str) -> LMConfig:
    """Return defaults for a small model and rewards in [0, 1]; `choices` are gempi's row."""
    options = SequenceConfig(method=method, **choices).options
    em = {"epsilon_eta": 0.1, "epsilon_reference": 0.1, "lambda_behaviour": 0.9, "alpha_init": 1.0}
    used = {name: value for name, value in em.items() if name in options}
    config = LMConfig(agent=SequenceConfig(method=method, **choices, **used))
    if method in BATCHES:
        rate = 1e-5 if method == "dpo" else 1e-4
        learner = replace(config.learner, updates=1, learning_rate=rate)
        config = replace(config, data=replace(config.data, prompts=32), learner=learner)
    return config


def paper(method: MethodName, **choices: str) -> LMConfig:
    """Return the settings that papers give for a method, and those of `small` where they give none; ValueError if there
    are none for the method."""
    if method not in PAPER:
        raise ValueError(f"--preset paper has settings for {', '.join(PAPER)}, not for {method}: take small")
    config = small(method, **choices)
    parts = {part: replace(getattr(config, part), **values) for part, values in PAPER[method].items()}
    config = replace(config, **parts)
    return replace(config, learner=replace(config.learner, preset="paper"))


PRESETS = {"small": small, "paper": paper}
