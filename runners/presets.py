"""Presets: the settings that differ from the defaults, for a suite and a learning rule (`choices`: gempi's row)."""

from collections.abc import Callable
from dataclasses import replace

from agents.config import AgentConfig, options_of
from envs.suites import suite_of
from networks.config import NetworkConfig
from runners.config import AtariEnv, ControlEnv, RunConfig, TrainingConfig


def small_atari(agent: str, **choices: str) -> RunConfig:
    """Return settings that learn Pong on two CPU cores."""
    ppo = agent == "ppo"
    em = dict(temperature="solved", epsilon_eta=0.1, epsilon_alpha=0.007, alpha_init=1.0)
    em |= dict(epsilon_reference=2.0)
    return RunConfig(
        env=AtariEnv(),
        network=NetworkConfig(nature_channels=(16, 32, 32), torso_hidden=256, centre_pixels=True, memory=32),
        agent=AgentConfig(
            agent=agent,
            gae_lambda=0.95,
            standardise_advantages=True,
            value_coefficient=0.5 if ppo else 0.25,
            entropy_coefficient=0.01 if ppo else 0.0,
            popart_step_size=1e-3,
            **options_of(agent, choices, **em),
        ),
        training=TrainingConfig(
            steps=3_000_000,
            unroll=63,
            target_period=1 if ppo else 8,
            value_warmup=40_000,
            anneal=True,
            anneal_from=0.0 if ppo else 0.65,
            anneal_to=0.0 if ppo else 0.2,
            weight_average=0.995,
            eval_policy="both",
            evaluations=4,
            eval_from=0.75,
        ),
    )


def paper_atari(agent: str, **choices: str) -> RunConfig:
    """Return V-MPO's settings for one Atari game (tables 1 and 6, appendix F), with our defaults where it has none.

    Its core is TrXL with layer norm on the inputs. GTrXL is from another paper (arXiv 1910.06764): --core gtrxl.
    """
    em = dict(epsilon_eta=0.02, epsilon_alpha=0.007, alpha_init=5.0)
    config = RunConfig(
        env=AtariEnv(),
        network=NetworkConfig(
            torso="resnet",
            resnet_channels=(64, 128, 128),
            core="trxl-i",
            embedding=256,
            layers=8,
            heads=4,
            key_size=32,
            mlp_size=512,
        ),
        agent=AgentConfig(agent=agent, discount=0.997, values="online", **options_of(agent, choices, **em)),
        training=TrainingConfig(
            preset="paper",
            steps=2_500_000_000,
            actors=8,
            envs=128,
            unroll=63,
            minibatches=1,
            target_period=1000,
            learning_rate=1e-4,
            dual_learning_rate=1e-4,
            max_gradient_norm=0.0,
        ),
    )
    return _paper_ppo(config) if agent == "ppo" else config


def _paper_ppo(config: RunConfig) -> RunConfig:
    """Return V-MPO's settings changed for PPO: fresh actors, several passes and GAE (arXiv 1707.06347, table 5)."""
    agent = replace(
        config.agent,
        values="acting",
        gae_lambda=0.95,
        standardise_advantages=True,
        entropy_coefficient=0.01,
        clip_epsilon=0.1,
    )
    training = replace(config.training, target_period=1, passes=3, minibatches=4, max_gradient_norm=0.5)
    return replace(config, agent=agent, training=training)


def small_control(agent: str, **choices: str) -> RunConfig:
    """Return settings that learn CartPole in seconds on one core, in one process."""
    em = dict(epsilon_eta=0.1, epsilon_alpha=0.003, alpha_init=1.0)
    em |= dict(epsilon_alpha_mu=0.01, epsilon_alpha_sigma=1e-4, epsilon_reference=2.0)
    return RunConfig(
        env=ControlEnv(),
        network=NetworkConfig(
            nature_channels=(16, 32, 32), torso_hidden=64, embedding=64, key_size=16, mlp_size=128, head_hidden=64
        ),
        agent=AgentConfig(
            agent=agent,
            gae_lambda=0.95,
            standardise_advantages=True,
            entropy_coefficient=0.01 if agent == "ppo" else 0.0,
            popart_step_size=1e-3,
            **options_of(agent, choices, **em),
        ),
        training=TrainingConfig(
            steps=300_000,
            actors=0,
            passes=4,
            minibatches=4,
            learning_rate=1e-3,
            anneal=True,
            eval_episodes=100,
        ),
    )


def small_mujoco(agent: str, **choices: str) -> RunConfig:
    """Return settings for the tasks of MuJoCo, those of gymnasium and of dm_control, on one core."""
    config = small_control(agent, **choices)
    if agent == "ppo":
        return replace(config, training=replace(config.training, steps=1_000_000))
    em = dict(epsilon_alpha_sigma=5e-5, alpha_sigma_init=30.0)
    rule = replace(config.agent, **options_of(agent, choices, **em))
    return replace(config, agent=rule, training=replace(config.training, steps=1_000_000, passes=8, learning_rate=3e-4))


def small_memory(agent: str, **choices: str) -> RunConfig:
    """Return settings for tasks where few steps decide: they are those for control, with a sharper target."""
    config = small_control(agent, **choices)
    return replace(config, agent=replace(config.agent, **options_of(agent, choices, epsilon_eta=1.0)))


def small_minigrid(agent: str, **choices: str) -> RunConfig:
    """Return settings for MiniGrid-MemoryS7: look at an object, remember it, choose one like it; on some seeds."""
    config = small_control(agent, **choices)
    ppo = agent == "ppo"
    em = dict(epsilon_eta=0.5, epsilon_alpha=0.005)
    rule = replace(
        config.agent, discount=0.999, gae_lambda=0.8, entropy_coefficient=0.1, **options_of(agent, choices, **em)
    )
    training = replace(config.training, steps=2_000_000, target_period=1 if ppo else 4, anneal_from=0.0 if ppo else 0.6)
    return replace(config, agent=rule, training=training)


def paper_control(agent: str, **choices: str) -> RunConfig:
    """Return V-MPO's settings for OpenAI Gym (tables 1 and 7), with the GTrXL of GEMPI section 12."""
    config = RunConfig(
        env=ControlEnv(),
        network=NetworkConfig(torso_hidden=256, embedding=256, layers=8, key_size=32, mlp_size=512),
        agent=AgentConfig(agent=agent, values="online", **options_of(agent, choices, epsilon_eta=0.01)),
        training=TrainingConfig(
            preset="paper",
            steps=1_000_000_000,
            actors=8,
            envs=128,
            unroll=39,
            minibatches=1,
            target_period=100,
            learning_rate=1e-4,
            dual_learning_rate=1e-4,
            max_gradient_norm=0.0,
            eval_episodes=100,
        ),
    )
    return _paper_ppo(config) if agent == "ppo" else config


PRESETS = {
    ("atari", "small"): small_atari,
    ("atari", "paper"): paper_atari,
    ("control", "small"): small_control,
    ("control", "paper"): paper_control,
    ("minigrid", "small"): small_minigrid,
    ("recall", "small"): small_memory,
    ("numpad", "small"): small_memory,
    ("popgym", "small"): small_memory,
    ("mujoco", "small"): small_mujoco,
    ("dm_control", "small"): small_mujoco,
}
"""Presets by command and name; a suite of environments may have its own in place of its command's."""


def preset_for(command: str, env: str | None, name: str) -> Callable[..., RunConfig]:
    """Return the function that makes the preset `name` for a command and the environment it was given, if any."""
    suite = suite_of(env, command).name if env and command == "control" else command
    # The parser refuses a name that no preset has.
    return PRESETS.get((suite, name)) or PRESETS.get((command, name)) or PRESETS[command, "small"]
