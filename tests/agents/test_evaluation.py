"""Values and advantages of several tasks, each in its own units."""

import torch

from agents.evaluation import describe_values, evaluate_policy, scaled_advantages, value_loss
from networks.heads import PopArtHead
from support.agent_oracles import random_batch, to_torch


def test_games_of_different_scale_weigh_the_same():
    """Two copies of one batch, as two tasks, one with rewards and values a hundredfold: the same advantages."""
    batch = random_batch(3, continuous=False)
    output, unroll, _, _ = to_torch(batch, mean=0.5, std=2.0)
    double = lambda x: torch.cat([x, x], 1)  # noqa: E731
    count = batch.value.shape[1]
    task = torch.arange(2).repeat_interleave(count)
    scale = 1 + 99.0 * task
    policy = type(output.policy)(*(double(p) for p in output.policy))
    both = output._replace(policy=policy, value=double(output.value))
    fields = {name: double(getattr(unroll, name)) for name in ("first", "terminated", "truncated", "previous_action")}
    fields |= {"reward": double(unroll.reward) * scale, "value": double(unroll.value) * scale}
    fields |= {"policy": double(unroll.policy), "task": task}
    head = PopArtHead(1, 1, tasks=2)
    head.mean.copy_(torch.tensor([0.5, 50.0]))
    head.std.copy_(torch.tensor([2.0, 200.0]))
    both_unroll = unroll._replace(observation=double(unroll.observation), **fields)
    result = evaluate_policy(both_unroll, 0.99, 0.9)
    plain, large = scaled_advantages(result, both_unroll, head, standardised=False).chunk(2, 1)
    torch.testing.assert_close(plain, large)
    torch.testing.assert_close(result.returns[:, count:], 100 * result.returns[:, :count])

    one = PopArtHead(1, 1)
    one.mean.fill_(0.5)
    one.std.fill_(2.0)
    alone = evaluate_policy(unroll, 0.99, 0.9)
    torch.testing.assert_close(scaled_advantages(alone, unroll, one, standardised=False), alone.advantages)
    scaled = scaled_advantages(alone, unroll, one, standardised=False, in_deviations=True)
    torch.testing.assert_close(scaled, alone.advantages / one.std.item(), msg="--scale-rewards")
    torch.testing.assert_close(plain, alone.advantages / 2)
    losses, explained = [], []
    for said, evaluation, seen, its in ((both, result, both_unroll, head), (output, alone, unroll, one)):
        losses.append(value_loss(said.value[:-1], evaluation.returns, seen.valid, seen.task, its))
        explained.append(describe_values(evaluation, seen, its)["value/explained_variance"])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*explained, rtol=1e-6, atol=1e-6)
