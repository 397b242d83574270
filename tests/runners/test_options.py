"""Options that classes declare are flags, and those without effect are refused."""

import pytest

from agents.config import AgentConfig
from agents.gempi.methods import Row
from agents.options import declared
from runners import cli
from runners.errors import UsageError
from runners.lm import cli as lm_cli
from support.options import ELEMENTS, GAUSSIAN, NAMES, other


def parse(runner: str, *arguments: str) -> object:
    return lm_cli.parse(list(arguments)) if runner == "lm" else cli.parse(runner, list(arguments))


@pytest.mark.parametrize("runner", ["atari", "control", "lm"])
def test_every_option_of_a_class_is_a_flag(runner: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse(runner, "--help")
    text = capsys.readouterr().out
    for element in (*ELEMENTS, *([GAUSSIAN] if runner != "lm" else [])):
        for each in declared(element):
            assert f"--{each.metadata['option'].replace('_', '-')} " in text
            assert each.metadata["doc"].split()[-1][-20:] in text


@pytest.mark.parametrize("runner", ["control", "lm"])
@pytest.mark.parametrize("name", [name for name in NAMES if "mu" not in name and "sigma" not in name])
def test_a_flag_without_effect_is_refused_in_one_line(runner: str, name: str) -> None:
    flag = "--" + name.replace("_", "-")
    rule = "--method" if runner == "lm" else "--agent"
    with pytest.raises(UsageError, match=f"^{flag} has no effect on {rule} ppo as it is: leave it out"):
        parse(runner, rule, "ppo", flag, str(other(NAMES[name])))


@pytest.mark.parametrize("runner", ["control", "lm"])
@pytest.mark.parametrize("flags", ["--trust-region dual", "--temperature=dual", "--filter top-k", "--top_k 0.5"])
def test_a_flag_without_effect_is_refused_even_with_its_default(runner: str, flags: str) -> None:
    """Whoever asks AWR for V-MPO's trust region must not get a run without one."""
    rule = "--method" if runner == "lm" else "--agent"
    flag = flags.replace("=", " ").split()[0].replace("_", "-")
    with pytest.raises(UsageError, match=f"^{flag} has no effect on {rule} awr"):
        parse(runner, rule, "awr", *flags.split())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            "--agent awr --dual-learning-rate 0.1",
            "--dual-learning-rate has no effect on --agent awr, which has no dual variables",
        ),
        ("--no-anneal --anneal-from 0.5", "--anneal-from has no effect without --anneal"),
        ("--no-anneal --anneal-to 0.2 --anneal-from 0.1", "--anneal-from, --anneal-to has no effect without --anneal"),
        ("--evaluations 0 --eval-from 0.75", "--eval-from has no effect without --evaluations"),
    ],
)
def test_shares_of_what_a_run_does_not_do_are_refused(flags: str, says: str) -> None:
    """Presets for Atari set them, and so they must be named."""
    parse("atari", "--no-anneal", "--evaluations", "0")
    parse("atari", "--anneal-from", "0.5", "--eval-from", "0.5")
    with pytest.raises(UsageError, match=f"^{says}: leave it out$"):
        parse("atari", *flags.split())


@pytest.mark.parametrize(
    ("env", "flags", "kind"),
    [
        ("Pendulum-v1", "--epsilon-alpha 0.1", "Gaussian"),
        ("Pendulum-v1", "--alpha-init=3", "Gaussian"),
        ("CartPole-v1", "--epsilon-alpha-mu 0.1", "categorical"),
        ("CartPole-v1", "--alpha-sigma-init 3", "categorical"),
    ],
)
def test_the_trust_region_of_another_kind_of_policy_is_refused(
    env: str, flags: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Presets set it for both kinds, and so it must be named."""
    option = flags.replace("=", " ").split()[0]
    with pytest.raises(UsageError, match=f"^{option} has no effect on the {kind} policy of {env}: leave it out$"):
        parse("control", "--env", env, *flags.split())
    parse("control", "--env", "CartPole-v1" if kind == "Gaussian" else "Pendulum-v1", *flags.split())
    monkeypatch.setattr(cli, "spec_of", lambda _: pytest.fail("made an environment"))
    parse("control", "--env", env, "--trust-region-kl", "reverse")


def test_the_command_line_spells_a_tuple():
    config, _ = cli.parse("control", "--agent gempi --divergence chi-square --temperature fixed --filter all".split())
    assert config.agent.row == Row(("behaviour",), "fixed", "all", "dual", "chi-square")
    assert config.agent.epsilon_alpha == 0.003 and config.agent.epsilon_eta == AgentConfig().epsilon_eta
    for flags, complaint in (
        ("--agent gempi --temperature fixed --epsilon-eta 0.3", "--epsilon-eta has no effect on --agent gempi"),
        ("--agent gempi --divergence renyi --anchors both", "closed form for one anchor"),
        ("--agent gempi --divergence kll", "kl"),
        ("--agent dar --divergence chi-square", "has no effect on --agent dar"),
        ("--agent ppo --anchors both", "has no effect on --agent ppo"),
    ):
        with pytest.raises(UsageError, match=complaint):
            cli.parse("control", flags.split())
