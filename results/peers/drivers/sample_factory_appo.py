"""sample-factory's APPO on envpool, acting and learning in turn in one process: on one core its fastest way."""

import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import envpool
import gymnasium
import numpy as np
import torch
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

from results.peers.drivers import protocol

GAME = "atari_pong"
FOLDER = Path("runs/peers/sample-factory/train")


class Pong(gymnasium.Env):
    """Envpool's Pong as the one vectorised environment that a worker of sample-factory steps."""

    def __init__(self, envs: int) -> None:
        self.num_agents = envs
        self.pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=envs, seed=1, **protocol.PONG)
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(int(self.pool.action_space.n))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict]:
        return self.pool.reset()[0], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        observation, reward, terminated, truncated, _ = self.pool.step(np.asarray(actions))
        return observation, reward, terminated, truncated, {}

    def close(self) -> None:
        del self.pool  # its own close() does not go with the gymnasium that sample-factory asks for


class Batches(AlgoObserver):
    """Marks after each training iteration, which has learned from one batch."""

    def __init__(self, chosen: Namespace) -> None:
        self.chosen, self.mark = chosen, protocol.Marks()

    def on_start(self, runner: Runner) -> None:
        packages = ["torch", "sample-factory", "envpool", "gymnasium", "numpy"]
        network = runner.learners[0].learner.actor_critic
        protocol.describe(packages, network.parameters(), rule="APPO", **protocol.ABOUT, **vars(self.chosen))

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        self.mark(training_iteration_since_resume * self.chosen.envs * self.chosen.unroll)


def flags(chosen: Namespace) -> list[str]:
    """Return sample-factory's flags for the same network, batch and number of passes."""
    recurrent = chosen.core == "lstm"
    return f"""
        --algo=APPO --env={GAME} --experiment=pong --train_dir={FOLDER} --restart_behavior=overwrite --device=cpu
        --serial_mode=True --async_rl=False --batched_sampling=True
        --num_workers=1 --num_envs_per_worker=1 --worker_num_splits=1 --num_envs_of_pool={chosen.envs}
        --rollout={chosen.unroll} --batch_size={chosen.envs * chosen.unroll // chosen.minibatches}
        --num_batches_per_epoch={chosen.minibatches} --num_epochs={chosen.passes}
        --encoder_conv_architecture=convnet_atari --encoder_conv_mlp_layers=512 --nonlinearity=relu
        --use_rnn={recurrent} --rnn_type=lstm --rnn_size={chosen.hidden} --obs_scale=255.0
        --recurrence={chosen.unroll if recurrent else 1} --normalize_input=False --normalize_returns=False
        --env_frameskip={protocol.PONG["frame_skip"]} --learning_rate={protocol.LEARNING_RATE}
        --ppo_clip_ratio={protocol.CLIP} --exploration_loss_coeff={protocol.ENTROPY}
        --value_loss_coeff={protocol.VALUE} --gamma={protocol.DISCOUNT} --gae_lambda={protocol.GAE_LAMBDA}
        --max_grad_norm={protocol.GRADIENT_NORM} --train_for_env_steps={2**40}
    """.split()


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    torch.set_num_threads(1)
    chosen = protocol.options()
    shutil.rmtree(FOLDER, ignore_errors=True)
    register_env(GAME, lambda name, config, *_, **__: Pong(config.num_envs_of_pool))
    parser, _ = parse_sf_args(argv=flags(chosen))
    parser.add_argument("--num_envs_of_pool", type=int)
    _, runner = make_runner(parse_full_cfg(parser, argv=flags(chosen)))
    runner.register_observer(Batches(chosen))
    status = runner.init()
    raise SystemExit(runner.run() if status == ExperimentStatus.SUCCESS else status)
