"""Whole runs: acting and learning agree, a seed reproduces, what is killed resumes, what breaks says so in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from agents.factory import make_agent
from networks.cores import CORES
from runners.acting.actor import Actor
from runners.acting.unrolls import make_buffer
from runners.acting.weights import flatten_weights
from runners.build import build_env, build_network, random_observations
from runners.config import AtariEnv, from_dict, to_dict
from runners.errors import UsageError, main_guard
from runners.evaluate import main as evaluate_main
from runners.launch import main as launch_main
from runners.learning.learner import Learner
from runners.lm.config import LMConfig
from runners.lm.config import to_dict as lm_to_dict
from runners.lm.launch import main as lm_main
from runners.machine import limits
from runners.presets import PRESETS
from runners.records.checkpoint import Checkpoints
from runners.records.metrics import LAYOUT
from runners.run import new_folder
from runners.training import AgentTraining
from support import ROOT
from support.agent_oracles import learned, space
from support.runs import ONE_TASK, batches, empty_charts, small


def command(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, **options
    )


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "recall-3"])
def test_the_learner_recomputes_the_behaviour_policy(core: str, env: str) -> None:
    """Over several unrolls with episode ends inside, old weights and new ones: KL(pi_old || pi) is 0 at every step.

    So is the difference of values, in units of the return and at the row after the last step too.
    """
    config = small(core, env)
    torch.manual_seed(0)
    vector = build_env(config, 4, stream=0)
    network = build_network(config, vector.spec)
    with torch.no_grad():  # a policy that differs from step to step
        network.policy_head.output.weight.normal_()
        network.value_head.output.weight.normal_()
        network.value_head.mean.fill_(-3.0)
        network.value_head.std.fill_(2.0)
    actor = Actor(vector, network, seed=1, tasks=ONE_TASK)
    out = network.policy_head.output.out_features
    buffer = make_buffer(vector.spec, 16, ONE_TASK, out, network.initial_state(1), shared=False)
    ends = 0
    for i in range(6):
        if i == 4:  # what the actor keeps of its memory is of the old ones
            actor.load(1.1 * flatten_weights(network))
        actor.collect(buffer)
        unroll = buffer.unroll
        with torch.no_grad():
            output = network(unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state)
            value = network.value_head.denormalise(output.value)
        torch.testing.assert_close(output.policy.parameters()[:-1], unroll.policy, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(value, unroll.value, atol=1e-5, rtol=1e-5)
        assert value.std() > 0.1
        ends += int((unroll.terminated | unroll.truncated)[1:].sum())
    assert ends > 0 or env == "Pendulum-v1"


def test_the_learner_recomputes_the_behaviour_policy_from_pixels() -> None:
    """Convolutions sum in another order where the batch has another size."""
    config = PRESETS["atari", "small"]("vmpo")
    vector = build_env(config, 4, stream=0)
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 1e-2)):
        config = replace(config, training=replace(config.training, precision=precision))
        network = build_network(config, vector.spec)
        network.fit_input(random_observations(config, steps=2))
        buffer = make_buffer(vector.spec, 16, ONE_TASK, vector.spec.action.n, network.initial_state(1), shared=False)
        Actor(build_env(config, 4, stream=0), network, seed=1, tasks=ONE_TASK).collect(buffer)
        unroll = buffer.unroll
        with torch.no_grad():
            output = network(unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state)
        torch.testing.assert_close(output.policy.logits[:-1], unroll.policy, atol=tolerance, rtol=0)
        assert unroll.policy.std() > 10 * 1e-5


def test_rows_of_consecutive_unrolls_join() -> None:
    config = small("lstm", "recall-3")
    vector = build_env(config, 4, stream=0)
    network = build_network(config, vector.spec)
    actor = Actor(vector, network, seed=1, tasks=ONE_TASK)
    sizes = (network.policy_head.output.out_features, network.initial_state(1))
    first, second = (make_buffer(vector.spec, 16, ONE_TASK, *sizes, shared=False) for _ in range(2))
    actor.collect(first)
    actor.collect(second)
    for name in ("observation", "reward", "first", "terminated", "truncated", "previous_action", "value"):
        torch.testing.assert_close(getattr(first.unroll, name)[-1], getattr(second.unroll, name)[0])
    assert second.episode_return[0].isnan().all()


@pytest.mark.parametrize("agent", ["vmpo", "ppo"])
def test_a_seed_reproduces_to_the_bit(agent: str) -> None:
    one, two, other = (batches(small("gtrxl", agent=agent, seed=s), 4) for s in (3, 3, 4))
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True))


@pytest.mark.parametrize("torso", ["auto", "nature", "resnet"])
def test_a_checkpoint_holds_the_whole_learner(torso: str, tmp_path: Path) -> None:
    """Two learners, one restored from the other's file, stay equal to the bit on the same data."""
    config = small("gtrxl")
    if torso != "auto":  # settled by a measurement, the precision of the two might differ
        training = replace(config.training, precision="float32")
        network = replace(config.network, torso=torso, torso_hidden=16)
        config = replace(config, env=AtariEnv(), network=network, training=training)
    before = batches(config, 3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(before.steps, before.get_state())
    after = AgentTraining(config)
    after.set_state(checkpoints.latest().state)
    assert after.steps == before.steps == 3 * 4 * 16
    assert after.tracker.mean_return == pytest.approx(before.tracker.mean_return, nan_ok=True)
    unroll = before.sampler.buffer.unroll
    for training in (before, after):
        training.learner.train(unroll, 0.0)
    assert before.learner.updates == after.learner.updates
    for x, y in (
        (before.learner.network, after.learner.network),
        (before.learner.agent, after.learner.agent),
    ):
        for (name, a), b in zip(x.state_dict().items(), y.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_the_value_is_trained_alone_at_first() -> None:
    def parts(training: AgentTraining) -> dict[str, torch.Tensor]:
        network, agent = training.learner.network, training.learner.agent
        named = {"policy": network.policy_head, "duals": agent, "value": network.value_head, "core": network.core}
        return {name: torch.nn.utils.parameters_to_vector(part.parameters()).clone() for name, part in named.items()}

    config = small("gtrxl", value_warmup=2 * 4 * 16)
    training = AgentTraining(config)
    before, loop = parts(training), training.run()
    for batch in range(3):
        next(loop)
        moved = {name for name, part in parts(training).items() if not torch.equal(part, before[name])}
        assert moved == ({"value", "core"} if batch < 2 else {"policy", "duals", "value", "core"})
    loop.close()


def test_the_warm_up_is_at_most_a_tenth_of_the_run() -> None:
    assert small("lstm", steps=100_000, value_warmup=4_000).warmup_steps == 4_000
    assert small("lstm", steps=10_000, value_warmup=4_000).warmup_steps == 1_000


def test_a_run_that_goes_on_for_longer_has_its_own_warm_up() -> None:
    first = AgentTraining(small("lstm", steps=10_000, value_warmup=4_000))
    loop = first.run()
    next(loop)
    state = first.get_state()
    loop.close()
    longer = AgentTraining(small("lstm", steps=100_000, value_warmup=4_000))
    assert longer.warmup_steps == 4_000
    longer.set_state(state)
    assert longer.warmup_steps == 1_000


def test_annealing_takes_the_rate_of_the_network_and_the_entropy_bonus_to_zero() -> None:
    config = small("feedforward", learning_rate=1e-3, dual_learning_rate=1e-2, anneal=True, passes=1, minibatches=1)
    training = batches(replace(config, agent=replace(config.agent, entropy_coefficient=0.1)), 1)
    learner, unroll = training.learner, training.sampler.buffer.unroll
    output = learner.network(unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state)
    totals = [learned(learner.agent, output, unroll, learner.network.value_head, share) for share in (1.0, 0.25)]
    bonus = 0.1 * totals[0].metrics["m_step/entropy"]
    torch.testing.assert_close(totals[1].total - totals[0].total, 0.75 * bonus)
    shares, loss = [], learner.agent.loss
    learner.agent.loss = lambda *arguments: shares.append(arguments[-1]) or loss(*arguments)
    for progress in (0.0, 0.75):
        learner.train(unroll, progress)
        assert [group["lr"] for group in learner.optimizer.param_groups] == [1e-3 * (1 - progress), 1e-2]
    assert shares == [1.0, 0.25]
    learner.config = replace(config, training=replace(config.training, anneal_from=0.6))
    for progress in (0.6, 0.9):
        learner.train(unroll, progress)
    assert shares[2:] == pytest.approx([1.0, 0.25])
    learner.config = replace(config, training=replace(config.training, anneal_from=0.6, anneal_to=0.2))
    for progress in (0.3, 0.8, 1.0):
        learner.train(unroll, progress)
    assert shares[4:] == pytest.approx([1.0, 0.6, 0.2])


def test_actor_processes_feed_the_learner_and_are_started_again(capsys: pytest.CaptureFixture) -> None:
    config = small("lstm", actors=2, target_period=3)
    training = AgentTraining(config)
    loop = training.run()
    for _ in range(3):
        row = next(loop)
    assert row["steps"] == 3 * 4 * 16 and row["cpu_seconds"] > 0 and row["speed/actor_restarts"] == 0
    assert training.sampler.weights.version == 2  # published after the third batch
    training.sampler.actors[1].process.kill()
    for _ in range(5):
        row = next(loop)
    assert row["speed/actor_restarts"] == 1 and row["steps"] == 8 * 4 * 16
    assert "actor 1 died (exit code -9): its unroll is dropped, and it is started again" in capsys.readouterr().out
    loop.close()


def test_target_period_keeps_the_acting_weights() -> None:
    config = small("feedforward", target_period=1000)
    training = batches(config, 3)
    acting = dict(training.sampler.network.named_parameters())
    moved = [n for n, p in training.network.named_parameters() if not torch.equal(p, acting[n])]
    assert moved, "the online network learns while the actors' waits"
    torch.manual_seed(config.training.seed)
    fresh = AgentTraining(config)
    for name, parameter in fresh.network.named_parameters():
        assert torch.equal(parameter, acting[name])


def test_ppo_stops_early_beyond_its_target_kl() -> None:
    config = small("feedforward", agent="ppo", passes=10, minibatches=4)
    eager = replace(config, agent=replace(config.agent, target_kl=1e-12))
    assert batches(config, 2).learner.updates == 2 * 10 * 4
    assert batches(eager, 2).learner.updates < 2 * 10 * 4
    row = next(AgentTraining(replace(eager, training=replace(eager.training, log_seconds=1e-9))).run())
    assert row["m_step/steps_share"] == row["updates"] / 40 < 1


def test_configuration_survives_json() -> None:
    for make in PRESETS.values():
        config = make("vmpo")
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_duals_and_network_have_their_own_learning_rates() -> None:
    config = small("feedforward")
    env = build_env(config, 1, stream=0)
    network = build_network(config, env.spec)
    learner = Learner(config, network, make_agent(config.agent, space(False)), torch.device("cpu"))
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    assert rates == [config.training.learning_rate, config.training.dual_learning_rate]
    assert learner.optimizer.param_groups[1]["params"] == list(learner.agent.trust_region.parameters())
    assert len(learner.optimizer.param_groups[1]["params"]) == 1  # alpha
    (eta,) = learner.duals.optimizer.param_groups
    assert eta["params"] == list(learner.agent.temperature.parameters())
    assert eta["lr"] == config.training.dual_learning_rate


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runners.atari", "--game", "Pongg"], "Pong"),
        (["runners.control", "--env", "CartPol-v1"], "CartPole-v1"),
        (["runners.atari", "--core", "gtrx"], "gtrxl"),
        (["runners.atari", "--gate", "gr"], "gru"),
        (["runners.atari", "--preset", "big"], "paper"),
        (["runners.atari", "--agent", "dqn"], "vmpo"),
        (["runners.atari", "--stepz", "5"], "--stepz"),
        (["runners.atari", "--env", "Pong"], "did you mean --game?"),
        (["runners.control", "--game=Pong"], "did you mean --env, or python -m runners.atari --game?"),
        (["runners.atari", "--memory", "0"], "--memory must be at least 1"),
        (["runners.atari", "--envs", "7"], "--envs 7"),
        (["runners.control", "--torso", "nature"], "leave --torso at auto"),
        (["runners.control", "--centre-pixels"], "--centre-pixels"),
        (["runners.control", "--unroll", "1000000000"], "GB"),
        (["runners.control", "--core", "lstm", "--compile"], "--compile"),
        (["runners.control", "--core", "gru", "--compile"], "--core gru"),
        (["runners.control", "--target-kl", "0.1"], "--target-kl"),
        (["runners.control", "--learning-rate", "nan"], "--learning-rate"),
        (["runners.control", "--control-variate", "2"], "--control-variate must lie between 0 and 1"),
        (["runners.control", "--agent", "ppo", "--top-k", "0.2"], "--top-k has no effect on --agent ppo"),
        (["runners.control", "--gate-bias", "nan"], "--gate-bias must be finite, not nan"),
        (["runners.control", "--clip-epsilon", "0.1"], "--clip-epsilon has no effect on --agent vmpo"),
        (
            ["runners.control", "--agent", "dar", "--reference", "average", "--reference-decay", "1"],
            "--reference-decay must lie in [0, 1), not 1.0",
        ),
        (["runners.control", "--popart-step-size", "2"], "--popart-step-size must lie between 0 and 1"),
        (["runners.control", "--agent", "awr", "--dropout", "0.1", "--dropout-scheme", "masked"], "--dropout-scheme"),
        (["runners.control", "--resume", "no/such/run"], "no/such/run"),
        (["runners.evaluate", "no/such/run"], "no/such/run"),
        pytest.param(
            ["runners.control", "--device", "cuda"],
            "CUDA",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here"),
        ),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    module, *flags = arguments
    main = evaluate_main if module == "runners.evaluate" else partial(launch_main, module.removeprefix("runners."))
    with pytest.raises(SystemExit) as stop:
        main_guard(main, flags)
    line, *more = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and line.startswith("error: ") and says in line and not more
    assert not list(tmp_path.iterdir()), "a refused run leaves nothing behind"


def test_runs_that_begin_together_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runners.run.strftime", lambda _: "now")
    folders = [new_folder(None, "MiniGrid:Go") for _ in range(3)]
    assert [str(folder) for folder in folders] == [f"runs/MiniGrid-Go-now{end}" for end in ("", "-2", "-3")]
    assert all(folder.is_dir() for folder in folders)


def test_the_command_line_itself_fails_in_one_line() -> None:
    done = command("runners.atari", "--game", "Pongg")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


RUN = ["--envs", "4", "--minibatches", "2", "--unroll", "16", "--embedding", "16", "--memory", "8", "--no-video"]


@pytest.mark.parametrize(
    ("kept", "asked"),
    [("atari", "runners.control --resume"), ("lm", "runners.control --resume"), ("control", "runners.lm --resume")]
    + [("lm", "runners.evaluate")],
)
def test_a_run_of_another_kind_is_named(kept: str, asked: str, tmp_path: Path) -> None:
    config = lm_to_dict(LMConfig()) if kept == "lm" else to_dict(PRESETS[kept, "small"]("vmpo"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    module, *flags = asked.split()
    main = {"runners.evaluate": evaluate_main, "runners.lm": lm_main}.get(module, partial(launch_main, "control"))
    with pytest.raises(UsageError, match=f"is a run of runners.{kept}, not of runners.") as error:
        main([*flags, str(tmp_path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "asked", ["runners.control --env Pendulum-v1", "runners.atari --game Breakout", "runners.control --seed 1"]
)
def test_what_a_resumed_run_keeps_is_named_by_its_flag(asked: str, tmp_path: Path) -> None:
    module, option, value = asked.split()
    suite = module.removeprefix("runners.")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PRESETS[suite, "small"]("vmpo"))))
    with pytest.raises(UsageError, match=f"leave out {option}, or start a new run"):
        launch_main(suite, ["--resume", str(tmp_path), option, value])


@pytest.mark.parametrize(("ranks", "fits"), [(1, True), (2, False)])
def test_every_rank_s_batches_count(ranks: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count two buffers and the learner's copy; a batch of CartPole's four floats a step."""
    config = small("lstm", envs=4, unroll=15, actors=1)
    spec = build_env(config, 1, stream=0).spec
    monkeypatch.setattr(limits, "_available", lambda: 3.5 * 4 * 16 * 4 * 4)
    with nullcontext() if fits else pytest.raises(UsageError, match="GB of memory is free"):
        limits.check_memory(config, spec, 2, ranks)


def test_a_run_stopped_by_a_signal_resumes_and_is_evaluated(tmp_path: Path) -> None:
    """SIGTERM saves and exits cleanly; --resume goes on from there and writes the summary; evaluate reads the run."""
    run_dir = tmp_path / "run"
    arguments = ["-m", "runners.control", "--core", "gtrxl", "--actors", "1", "--steps", "1000000", *RUN]
    arguments += ["--run-dir", str(run_dir), "--log-seconds", "0.2", "--eval-episodes", "5"]
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((run_dir / "metrics.csv").exists() and _rows(run_dir) > 3):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and b"--resume" in output
    step = Checkpoints(run_dir / "checkpoints").latest().step
    assert step > 0 and not (run_dir / "summary.json").exists()

    done = command("runners.control", "--resume", str(run_dir), "--steps", str(step + 2_000), timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] >= step + 2_000 and summary["agent"] == "vmpo" and summary["gate"] == "gru"
    assert summary["eval"]["episodes"] == len(summary["eval"]["returns"]) == 5
    asked = json.loads((run_dir / "config.json").read_text())["training"]["precision"]
    assert (asked, summary["precision"]) == ("auto", "float32")  # the choice is the machine's, and made at each start
    header, *rows = (run_dir / "metrics.csv").read_text().splitlines()
    steps = [int(line.split(",")[0]) for line in rows]
    assert not empty_charts(LAYOUT, header.split(","))
    assert steps == sorted(set(steps)) and steps[-1] == summary["steps"]

    changed = command("runners.control", "--resume", str(run_dir), "--learning-rate", "1")
    assert changed.returncode == 2 and "--learning-rate" in changed.stderr
    again = command("runners.control", "--run-dir", str(run_dir))
    assert again.returncode == 2 and "--resume" in again.stderr

    played = command("runners.evaluate", str(run_dir), "--episodes", "3")
    assert played.returncode == 0, played.stderr
    assert json.loads((run_dir / "evaluation.json").read_text())["episodes"] == 3
    newest = Checkpoints(run_dir / "checkpoints").latest().path
    newest.write_bytes(newest.read_bytes()[:100])
    older = command("runners.evaluate", str(run_dir), "--episodes", "3")
    assert older.returncode == 0 and older.stdout.startswith(f"warning: {newest} is damaged")
    for file in newest.parent.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    broken = command("runners.evaluate", str(run_dir))
    assert broken.returncode == 1 and len(broken.stderr.strip().splitlines()) == 1


def _rows(run_dir: Path) -> int:
    return len((run_dir / "metrics.csv").read_text().splitlines())
