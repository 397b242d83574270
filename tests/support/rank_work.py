"""What the processes of test_ranks.py do: importable, as spawned processes need it."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agents.config import AgentConfig
from agents.factory import make_agent
from agents.ranks import ALONE
from agents.sequences.config import SequenceConfig
from agents.sequences.factory import make_sequence_agent
from agents.sequences.types import Samples
from agents.sequences.value import ValueHead
from networks.actor_critic import ActorCritic
from networks.language import Completions
from runners.acting.samplers import LocalSampler
from runners.acting.unrolls import Buffer
from runners.build import actions_of, build_env, build_network
from runners.config import ControlEnv, RunConfig
from runners.learning.learner import Learner
from runners.lm.batches import Batch
from runners.lm.config import LearnerConfig, LMConfig
from runners.lm.learner import Learner as LMLearner
from runners.lm.model import character_tokenizer, new_model
from runners.lm.problem import Problem
from runners.lm.shards import gathered, shard
from runners.lm.sources import TaskSource
from runners.machine.ranks import Ranks, TorchRanks, join
from runners.presets import PRESETS
from support.agent_oracles import learned, popart, random_batch, space, to_torch
from support.lm_task import TASK

SHARED = dict(discount=0.9, gae_lambda=0.8, standardise_advantages=True, entropy_coefficient=0.02)
AGENTS = {
    "vmpo": AgentConfig(**SHARED, epsilon_eta=0.1, eta_init=0.7, control_variate=0.5),
    "vmpo, all samples": AgentConfig(**SHARED, top_k=1.0),
    "ppo": AgentConfig(agent="ppo", **SHARED),
}
CASES = [(name, continuous) for name in AGENTS for continuous in (False, True)]


def columns(rank: int, size: int, of: int) -> slice:
    return slice(rank * of // size, (rank + 1) * of // size)


def loss_and_gradients(name: str, continuous: bool, ranks: Ranks) -> dict[str, Tensor]:
    """Of a batch of 4 environments, this rank's part of it: the loss, all it logs, and the whole batch's gradients."""
    part = columns(ranks.rank, ranks.size, 4)
    output, unroll, parameters, value = to_torch(random_batch(5, continuous, batch=4), mean=0.5, std=2.0)
    output = output._replace(
        policy=type(output.policy)(*(p[:, part] for p in output.policy)), value=output.value[:, part]
    )
    agent = make_agent(AGENTS[name], space(continuous), ranks).double()
    loss = learned(agent, output, unroll.columns(part), popart(0.5, 2.0))
    loss.total.backward()
    for leaf in (parameters, value):  # of which this rank has its part; the network's gradients add up like these
        leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    ranks.sum_gradients([parameters, value])
    gradients = {"policy": parameters.grad, "value": value.grad}
    duals = {f"dual {name}": p.grad for name, p in agent.named_parameters()}
    return {"total": loss.total.detach(), **loss.metrics, **gradients, **duals}


LM_METHODS = ("vmpo", "dar", "ppo", "dpo", "sft", "dar-tr token")


def lm_steps(method: str, ranks: Ranks, sharded: bool = False) -> dict[str, Tensor]:
    """Two gradient steps of a language model on this rank's half of 8 completions: weights, duals and what is logged.

    The first rank's half has the worse completions: of top-k's samples, all may lie on the other. `sharded`, the model
    is spread over the ranks, and the second step is that of a learner that resumed from the first one's state. After a
    method its baseline may be named; with token the halves have completions of different lengths.
    """
    method, _, baseline = method.partition(" ")
    torch.manual_seed(0)
    problem = Problem(TaskSource(TASK), character_tokenizer(TASK.alphabet), torch.device("cpu"))
    model = new_model(TASK, problem.tokenizer, 3, 0.0)
    lm = LMConfig(
        agent=SequenceConfig(method=method, baseline=baseline or None),
        learner=LearnerConfig(learning_rate=1e-2, micro_batch=3),
    )
    if sharded:
        shard(model, ranks.mesh(torch.device("cpu")))
    value = ValueHead(TASK.width) if lm.agent.has_value else None
    learner = LMLearner(lm, model, make_sequence_agent(lm.agent, ranks), value, ranks)
    part = columns(ranks.rank, ranks.size, 8)
    asked = ["x", "xy", "yx", "y", "yyy", "xxy", "xx", "yy"]
    prompts, completions = problem.encode(asked), problem.answers(asked, ["a", "ab", "c", "", "b", "a", "", "c"])
    generator = torch.Generator().manual_seed(1)
    behaviour, reference = (-torch.rand(completions.tokens.shape, generator=generator) for _ in range(2))
    samples = Samples(completions.mask, behaviour, reference, torch.arange(8.0) / 8)
    features = returns = None
    if value:
        features = torch.rand(*completions.tokens.shape, TASK.width, generator=generator)
        returns = torch.where(completions.mask, -behaviour, torch.nan)
        samples = samples._replace(advantages=torch.rand(completions.tokens.shape, generator=generator))
        own = slice(int(completions.mask[part].sum(1).max()))
        completions, features, returns = (
            Completions(*(x[:, own] for x in completions)),
            features[part][:, own],
            returns[part][:, own],
        )
        samples = Samples(*(x[:, own] for x in samples[:4]))
    some = Completions(*(x[part] for x in completions))
    batch = Batch(prompts.select(part), some, samples.select(part), {}, features, returns)
    learner.train(batch, learner.plan(batch.samples, 1))
    if sharded:
        state, learner = learner.get_state(), LMLearner(lm, model, make_sequence_agent(lm.agent, ranks), value, ranks)
        learner.set_state(state)
    metrics = learner.train(batch, learner.plan(batch.samples, 1))
    duals = {f"dual {k}": v for k, v in learner.agent.state_dict().items()}
    values = {f"value {k}": v for k, v in value.state_dict().items()} if value else {}
    return metrics | gathered(dict(model.state_dict())) | duals | values


def config(agent: str, **training: Any) -> RunConfig:
    """A small GTrXL on CartPole, whose episodes end within the unroll."""
    config = PRESETS["control", "small"](agent)
    network = replace(config.network, embedding=16, heads=2, key_size=8, mlp_size=16, memory=12, normalise="on")
    options = {"envs": 4, "unroll": 24, "passes": 3, "minibatches": 1, **training}
    return replace(config, env=ControlEnv(), network=network, training=replace(config.training, **options))


def with_values(network: ActorCritic) -> ActorCritic:
    """The same with values that differ from step to step: where all are 0 advantages tie but for rounding, and which of
    them top-k keeps is a matter of the order of sums."""
    torch.nn.init.normal_(network.value_head.output.weight)
    return network


def batch(config: RunConfig) -> Buffer:
    """The same on every rank: 8 environments under a network of seed 0."""
    whole = replace(config, training=replace(config.training, envs=8))
    torch.manual_seed(0)
    env = build_env(whole, 1, stream=0)
    network = with_values(build_network(whole, env.spec))
    sampler = LocalSampler(whole, env.spec, network, 0)
    sampler.next()
    return sampler.next()


def trained(config: RunConfig, ranks: Ranks) -> dict[str, Tensor]:
    """Everything that learning changes, after the passes over this rank's part of `batch`."""
    unroll = batch(config).unroll
    torch.manual_seed(0)
    env = build_env(config, 1, stream=0)
    network = with_values(build_network(config, env.spec))
    whole_batch = ranks if config.training.statistics == "batch" else ALONE
    agent = make_agent(config.agent, actions_of(env.spec), whole_batch)
    share = replace(config, training=replace(config.training, envs=8 // ranks.size))
    learner = Learner(share, network, agent, torch.device("cpu"), ranks)
    learner.train(unroll.columns(columns(ranks.rank, ranks.size, 8)), 0.0)
    return {**network.state_dict(), **{f"dual {name}": p for name, p in agent.state_dict().items()}}


def leave(rank: int, size: int, folder: str, port: int) -> None:
    """Joins as one of torchrun's ranks, the first of which is busy for a second; writes when it was let go."""
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with join(torch.device("cpu")) as ranks:
        if rank == 0:
            time.sleep(1)
            (Path(folder) / "done").touch()
        ranks.wait_for_first()
    (Path(folder) / f"left {rank}").write_text(str((Path(folder) / "done").exists()))


def work(rank: int, size: int, folder: str) -> None:
    """Rank `rank` of `size`, which meet in `folder`: writes what each finds to `<rank>.pt`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    ranks = TorchRanks()
    found: dict[str, Any] = {str(case): loss_and_gradients(*case, ranks) for case in CASES}
    found |= {agent: trained(config(agent), ranks) for agent in ("vmpo", "ppo")}
    found["per rank"] = trained(config("vmpo", statistics="rank"), ranks)
    found |= {f"lm {method}": lm_steps(method, ranks) for method in LM_METHODS}
    found |= {f"sharded lm {method}": lm_steps(method, ranks, sharded=True) for method in LM_METHODS}
    found["votes"] = [ranks.any(vote) for vote in (False, rank == 1)]
    torch.manual_seed(rank)
    norm = torch.nn.BatchNorm1d(3)
    torch.nn.init.normal_(norm.weight)
    norm.running_mean += rank
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 2), norm).to(memory_format=torch.channels_last)
    before = [x.clone() for x in module.state_dict().values()]
    ranks.copy_first(module)
    found["copied"] = before, list(module.state_dict().values())
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
