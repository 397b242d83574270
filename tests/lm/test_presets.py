"""Presets of language-model runs: what papers give, where it stands in the configuration, and what is refused."""

import pytest

from runners.errors import UsageError
from runners.lm.cli import parse
from runners.lm.presets import PAPER

PUBLISHED = {
    "dar": {
        "lambda_reference + lambda_behaviour": 0.05,
        "lambda_reference / (lambda_reference + lambda_behaviour)": 0.1,
        "standardise_advantages": True,
        "max_weight": 20,
        "completions": 4,
        "updates": 4,
        "sampling_temperature": 0.9,
    },
    "awr": {"max_weight": 20, "lambda_behaviour": 1, "standardise_advantages": True},
    "dpo": {"dpo_beta": 0.1, "prompts": 64},
    "rl-em": {"lambda_reference": 0.1, "completions": 4},
    "vmpo": {"epsilon_eta": 0.02, "eta_init": 1, "top_k": 0.5, "epsilon_alpha": 0.01, "alpha_init": 5},
}


@pytest.mark.parametrize("method", PAPER)
def test_a_method_as_its_paper_has_it(method):
    config, _ = parse(["--preset", "paper", "--method", method])
    options = vars(config.data) | vars(config.agent) | vars(config.learner)
    assert options["preset"] == "paper" and options["method"] == method
    for name, value in PUBLISHED[method].items():
        assert eval(name, {}, options) == pytest.approx(value), name


def test_flags_go_over_the_preset():
    config, _ = parse("--preset paper --method dar --completions 8 --max-weight 5".split())
    assert (config.data.completions, config.agent.max_weight, config.data.sampling_temperature) == (8, 5, 0.9)


def test_a_method_without_a_paper_s_settings_is_refused():
    with pytest.raises(UsageError, match="--preset paper has settings for awr, .*, not for dar-tr: take small"):
        parse("--preset paper --method dar-tr".split())
    with pytest.raises(UsageError, match="preset"):
        parse("--preset papers".split())
