"""Presets: what differs from the defaults, for a kind of task, a learning rule and a kind of action."""

from dataclasses import replace

from agents.config import AgentConfig
from networks.config import NetworkConfig
from runners.config import AtariEnv, ControlEnv, RunConfig, TrainingConfig

CONTINUOUS = ("Pendulum-v1",)


def small_atari(agent: str) -> RunConfig:
    """Learns Pong on two CPU cores."""
    config = RunConfig(
        env=AtariEnv(),
        network=NetworkConfig(torso="nature", torso_hidden=512, centre_pixels=True),
        agent=AgentConfig(
            agent=agent,
            gae_lambda=0.95,
            standardise_advantages=True,
            epsilon_eta=0.1,
            epsilon_alpha=0.005,
            alpha_init=1.0,
            popart_step_size=1e-3,
        ),
        training=TrainingConfig(unroll=32),
    )
    if agent == "ppo":
        return replace(
            config,
            agent=replace(config.agent, entropy_coefficient=0.01, clip_epsilon=0.1, value_coefficient=0.5),
            training=replace(config.training, learning_rate=2.5e-4, passes=2),
        )
    return config


def paper_atari(agent: str) -> RunConfig:
    """V-MPO tables 1, 6 and appendix F, and section 12 of the seed; what they leave open is as in `small`."""
    return RunConfig(
        env=AtariEnv(),
        network=NetworkConfig(
            torso="resnet", resnet_channels=(64, 128, 128), embedding=256, layers=8, heads=4, key_size=32, mlp_size=512
        ),
        agent=AgentConfig(agent=agent, discount=0.997, epsilon_eta=0.02, epsilon_alpha=0.01, alpha_init=5.0),
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


def small_control(agent: str) -> RunConfig:
    """Learns CartPole in a minute on one core, in one process."""
    return RunConfig(
        env=ControlEnv(),
        network=NetworkConfig(torso="mlp", torso_hidden=64, embedding=64, key_size=16, mlp_size=128, head_hidden=64),
        agent=AgentConfig(
            agent=agent,
            gae_lambda=0.95,
            standardise_advantages=True,
            epsilon_eta=0.1,
            epsilon_alpha=0.01,
            alpha_init=1.0,
            popart_step_size=1e-3,
        ),
        training=TrainingConfig(
            steps=300_000, actors=0, envs=16, unroll=64, passes=2, minibatches=4, eval_episodes=100, learning_rate=1e-3
        ),
    )


def paper_control(agent: str) -> RunConfig:
    """V-MPO tables 1 and 7 for OpenAI Gym: unroll 39, T_target 100, and the GTrXL of section 12."""
    return RunConfig(
        env=ControlEnv(),
        network=NetworkConfig(torso="mlp", torso_hidden=256, embedding=256, layers=8, key_size=32, mlp_size=512),
        agent=AgentConfig(agent=agent, epsilon_eta=0.01),
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


PRESETS = {
    ("atari", "small"): small_atari,
    ("atari", "paper"): paper_atari,
    ("control", "small"): small_control,
    ("control", "paper"): paper_control,
}
