"""Options that classes declare: each has an effect where it is accepted, and is refused elsewhere."""

import itertools
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest

from agents.config import AgentConfig
from agents.gempi.anchors import ANCHORS
from agents.gempi.divergences import DIVERGENCES
from agents.gempi.filters import FILTERS
from agents.gempi.methods import METHODS, Row, make_method
from agents.gempi.temperature import TEMPERATURES
from agents.gempi.trust_region import TRUST_REGIONS
from agents.options import check_options, configured, declared, option, with_options
from agents.sequences.config import SequenceConfig
from support.options import ELEMENTS, GAUSSIAN, NAMES, other

ROWS = {"method": METHODS} | {
    "gempi": {
        " ".join((anchors, *choices)): Row(("reference", "behaviour") if anchors == "both" else (anchors,), *choices)
        for anchors in (*ANCHORS, "both")
        for choices in itertools.product(TEMPERATURES, FILTERS, TRUST_REGIONS, DIVERGENCES)
    }
}


@pytest.mark.parametrize("config", [AgentConfig, SequenceConfig])
def test_configurations_have_the_defaults_of_the_classes(config: type) -> None:
    found = {each.name: each.default for each in fields(config)}
    for element in (*ELEMENTS, *([GAUSSIAN] if config is AgentConfig else [])):
        for each in declared(element):
            assert found[each.metadata["option"]] == each.default


def elements(row: Row, config: object) -> list:
    """Return all that the numbers of `config` end up in, for a categorical policy and for a Gaussian one."""
    found = []
    for gaussian in (False, True):
        divergence, temperature, filter_, region = make_method(row, config, gaussian)
        found += [vars(divergence), vars(filter_), vars(temperature).get("epsilon")]
        found += [getattr(region, name, None) for name in ("gamma", "direction", "budgets")]
        found += [{name: x.tolist() for name, x in module.state_dict().items()} for module in (temperature, region)]
    return found


@pytest.mark.parametrize("kind", ROWS)
def test_an_option_has_an_effect_or_is_refused(kind: str) -> None:
    """Try every row of the table and every one that gempi can make: an option is refused exactly where all that is made
    stays the same."""
    for name, row in ROWS[kind].items():
        choices = {"agent": name}
        if kind == "gempi":
            choices = dict(zip(("anchors", *Row._fields[1:]), name.split(), strict=True)) | {"agent": "gempi"}
        try:
            plain = AgentConfig(**choices)
        except ValueError as error:
            assert "one anchor" in str(error)
            continue
        assert plain.row == row
        for each in NAMES.values():
            option_ = each.metadata["option"]
            changed = {option_: other(each)}
            has_effect = elements(row, SimpleNamespace(**vars(plain) | changed)) != elements(row, plain)
            assert (option_ in plain.options) == has_effect, (name, option_)
            if has_effect:
                AgentConfig(**choices, **changed)
            else:
                with pytest.raises(ValueError, match=f"--{option_.replace('_', '-')} has no effect on --agent"):
                    AgentConfig(**choices, **changed)


def test_configurations_of_earlier_runs_are_read() -> None:
    """The names that a config.json holds of the options that classes declare."""
    names = "renyi_order top_k epsilon_eta eta_init epsilon_reference lambda_behaviour lambda_reference gamma"
    names += " trust_region_kl epsilon_alpha alpha_init"
    gaussian = " epsilon_alpha_mu alpha_mu_init epsilon_alpha_sigma alpha_sigma_init"
    choices = {"anchors", "divergence", "temperature", "filter", "trust_region"}
    for config, expected in ((SequenceConfig, names), (AgentConfig, names + gaussian)):
        assert {*expected.split()} | choices <= {each.name for each in fields(config)}
    assert NAMES.keys() == {*(names + gaussian).split()}


@dataclass(frozen=True)
class Tilt:
    slope: float = option("tilt_slope", 2.0, "Slope of the tilt.")


def test_a_class_with_an_option_is_all_that_a_configuration_needs() -> None:
    @with_options(Tilt)
    class Config:
        steps: int = 3

    assert Config() == Config(steps=3, tilt_slope=2.0) and configured(Tilt, Config(tilt_slope=0.5)) == Tilt(0.5)
    check_options(Config())
    with pytest.raises(ValueError, match="--tilt-slope must be greater than 0, not -1"):
        check_options(Config(tilt_slope=-1))
