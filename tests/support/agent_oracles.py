"""Slow references for the learning rules: plain loops in numpy float64, written from the equations.

The references use nothing of the package; only the last section, which hands a batch to it, does. V-MPO is arXiv
1909.12238 (eqs. 1-6, 15, 25-27), PPO is arXiv 1707.06347, GAE is arXiv 1506.02438. Time runs first, [T, B, ...];
`terminated`, `truncated`, `reward` have T + 1 rows, as an unroll has: reward[t + 1] answers the action at t.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from agents.evaluation import evaluate_policy
from agents.gempi.em import once
from agents.types import Loss, Plan, Unroll, one_pass
from networks.actor_critic import Output
from networks.distributions import Choice, Reals
from networks.heads import PopArtHead

# ---------------------------------------------------------------------------------------------- unrolls


class Ends(NamedTuple):
    """How episodes end inside an unroll, next-step autoreset: all [T + 1, B] bool."""

    first: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def random_ends(rng: np.random.Generator, steps: int, batch: int, p_end: float = 0.25) -> Ends:
    """Random consistent ends: a last step (terminated or truncated, never both) is always followed by a first step."""
    first = np.zeros((steps + 1, batch), bool)
    terminated, truncated = first.copy(), first.copy()
    first[0] = rng.random(batch) < 0.5
    for b in range(batch):
        for t in range(steps + 1):
            if t > 0 and (terminated[t - 1, b] or truncated[t - 1, b]):
                first[t, b] = True
            elif not first[t, b] and rng.random() < p_end:  # an episode lasts at least one action
                (terminated if rng.random() < 0.5 else truncated)[t, b] = True
    return Ends(first, terminated, truncated)


def valid_steps(ends: Ends) -> np.ndarray:
    """[T, B] bool: the steps whose action did something, so all before the last row that are not an episode's last."""
    steps, batch = ends.first.shape[0] - 1, ends.first.shape[1]
    valid = np.ones((steps, batch), bool)
    for t in range(steps):
        for b in range(batch):
            if ends.terminated[t, b] or ends.truncated[t, b]:
                valid[t, b] = False
    return valid


# ---------------------------------------------------------------------------------------------- returns


def n_step_return(reward: np.ndarray, ends: Ends, value: np.ndarray, gamma: float, t: int, b: int, n: int) -> float:
    """G_t^(n) = sum_{k < n} gamma^k r_{t+k} + gamma^n V(s_{t+n}); a death leaves V = 0, an end shortens n."""
    steps = reward.shape[0] - 1
    total = 0.0
    for k in range(n):
        total += gamma**k * reward[t + k + 1, b]
        if ends.terminated[t + k + 1, b]:
            return total
        if ends.truncated[t + k + 1, b] or t + k + 1 == steps or k == n - 1:
            return total + gamma ** (k + 1) * value[t + k + 1, b]
    raise AssertionError("n must be positive")


def steps_left(ends: Ends, t: int, b: int) -> int:
    """How many actions from t on belong to t's episode and to the unroll."""
    steps = ends.first.shape[0] - 1
    n = 1
    while t + n < steps and not (ends.terminated[t + n, b] or ends.truncated[t + n, b]):
        n += 1
    return n


def forward_view(reward: np.ndarray, ends: Ends, value: np.ndarray, gamma: float, lambda_: float) -> np.ndarray:
    """G_t^lambda = (1 - lambda) sum_{n < N} lambda^{n-1} G_t^(n) + lambda^{N-1} G_t^(N): [T, B], NaN if invalid."""
    valid = valid_steps(ends)
    target = np.full(valid.shape, np.nan)
    for t, b in zip(*np.nonzero(valid), strict=True):
        last = steps_left(ends, t, b)
        target[t, b] = sum(
            (1 - lambda_) * lambda_ ** (n - 1) * n_step_return(reward, ends, value, gamma, t, b, n)
            for n in range(1, last)
        )
        target[t, b] += lambda_ ** (last - 1) * n_step_return(reward, ends, value, gamma, t, b, last)
    return target


def gae(reward: np.ndarray, ends: Ends, value: np.ndarray, gamma: float, lambda_: float) -> np.ndarray:
    """A_t = delta_t + gamma lambda A_{t+1} inside an episode, delta_t = r_t + gamma V_{t+1} - V_t; NaN if invalid."""
    valid = valid_steps(ends)
    steps, batch = valid.shape
    advantage = np.full(valid.shape, np.nan)
    for b in range(batch):
        for t in reversed(range(steps)):
            if not valid[t, b]:
                continue
            bootstrap = 0.0 if ends.terminated[t + 1, b] else value[t + 1, b]
            delta = reward[t + 1, b] + gamma * bootstrap - value[t, b]
            goes_on = t + 1 < steps and valid[t + 1, b]
            advantage[t, b] = delta + (gamma * lambda_ * advantage[t + 1, b] if goes_on else 0.0)
    return advantage


# ---------------------------------------------------------------------------------------------- E-step


def top_k(advantages: np.ndarray, mask: np.ndarray, fraction: float) -> np.ndarray:
    """[N] bool: the max(1, floor(fraction * valid)) valid samples of the largest advantage."""
    candidates = [i for i in range(len(advantages)) if mask[i]]
    keep = max(1, math.floor(fraction * len(candidates)))
    support = np.zeros(len(advantages), bool)
    support[sorted(candidates, key=lambda i: -advantages[i])[:keep]] = True
    return support


def psi(advantages: np.ndarray, support: np.ndarray, eta: float) -> np.ndarray:
    """[N]: psi_i proportional to exp(A_i / eta) on the support, 0 elsewhere (eq. 3)."""
    chosen = [i for i in range(len(advantages)) if support[i]]
    peak = max(advantages[i] for i in chosen)
    mass = np.zeros(len(advantages))
    for i in chosen:
        mass[i] = math.exp((advantages[i] - peak) / eta)
    return mass / mass.sum()


def temperature_loss(advantages: np.ndarray, support: np.ndarray, eta: float, epsilon: float) -> float:
    """L_eta = eta epsilon + eta log mean_support exp(A / eta) (eq. 4)."""
    chosen = advantages[support]
    peak = chosen.max()
    return eta * epsilon + peak + eta * math.log(np.mean(np.exp((chosen - peak) / eta)))


def temperature_gradient(advantages: np.ndarray, support: np.ndarray, eta: float, epsilon: float) -> float:
    """dL_eta/d eta = epsilon + log mean exp(A / eta) - sum psi A / eta."""
    chosen = advantages[support]
    weights = psi(advantages, support, eta)[support]
    return (
        epsilon
        + chosen.max() / eta
        + math.log(np.mean(np.exp((chosen - chosen.max()) / eta)))
        - np.dot(weights, chosen) / eta
    )


def kl_to_uniform(weights: np.ndarray, support: np.ndarray) -> float:
    """KL(weights || uniform on the support)."""
    uniform = 1.0 / support.sum()
    return sum(w * math.log(w / uniform) for w in weights[support] if w > 0)


def best_eta(advantages: np.ndarray, support: np.ndarray, epsilon: float) -> float:
    """The minimum of the temperature dual, by a line search over log eta."""
    found = minimize_scalar(
        lambda log_eta: temperature_loss(advantages, support, math.exp(log_eta), epsilon),
        bounds=(-12.0, 12.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(found.x)


# ---------------------------------------------------------------------------------------------- distributions, by hand


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[..., A] -> [..., A]."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def categorical_log_prob(logits: np.ndarray, action: np.ndarray) -> np.ndarray:
    """log pi(a) of [..., A] logits at [...] actions."""
    return np.take_along_axis(log_softmax(logits), action[..., None], -1)[..., 0]


def categorical_kl(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """KL(old || new) of [..., A] logits."""
    log_old, log_new = log_softmax(old), log_softmax(new)
    return (np.exp(log_old) * (log_old - log_new)).sum(-1)


def categorical_entropy(logits: np.ndarray) -> np.ndarray:
    log_prob = log_softmax(logits)
    return -(np.exp(log_prob) * log_prob).sum(-1)


def gaussian_log_prob(mean: np.ndarray, std: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Diagonal Gaussian, summed over the last axis."""
    return (-0.5 * ((action - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_kl_mean(mean_old: np.ndarray, std_old: np.ndarray, mean_new: np.ndarray) -> np.ndarray:
    """1/2 (mu_new - mu_old)^T Sigma_old^-1 (mu_new - mu_old) (eq. 26)."""
    return (0.5 * (mean_new - mean_old) ** 2 / std_old**2).sum(-1)


def gaussian_kl_std(std_old: np.ndarray, std_new: np.ndarray) -> np.ndarray:
    """1/2 (tr(Sigma_new^-1 Sigma_old) - d + log |Sigma_new| / |Sigma_old|) (eq. 27)."""
    return (0.5 * (std_old**2 / std_new**2 - 1 + np.log(std_new**2 / std_old**2))).sum(-1)


def gaussian_kl(mean_old: np.ndarray, std_old: np.ndarray, mean_new: np.ndarray, std_new: np.ndarray) -> np.ndarray:
    """KL(old || new); its two decoupled parts do not sum to it where both move."""
    square = std_old**2 + (mean_new - mean_old) ** 2
    return (np.log(std_new / std_old) + square / (2 * std_new**2) - 0.5).sum(-1)


def gaussian_entropy(std: np.ndarray) -> np.ndarray:
    return (0.5 * math.log(2 * math.pi * math.e) + np.log(std)).sum(-1)


# ---------------------------------------------------------------------------------------------- whole losses


class VMPOLoss(NamedTuple):
    """The total of the four terms (each weighted 1), the terms, psi [T, B], and the mean of each KL."""

    total: float
    value: float
    policy: float
    eta: float
    alpha: float
    weights: np.ndarray
    mean_kls: list[float]


def vmpo_loss(
    log_prob: np.ndarray,
    kls: list[np.ndarray],
    value: np.ndarray,
    target: np.ndarray,
    valid: np.ndarray,
    eta: float,
    alphas: list[float],
    epsilon_eta: float,
    epsilons_alpha: list[float],
    fraction: float,
    standardise: bool = False,
) -> VMPOLoss:
    """V-MPO on [T, B] arrays: L_V + L_pi + L_eta + L_alpha; each KL has an alpha and a budget of its own."""
    rows = [(t, b) for t, b in zip(*np.nonzero(valid), strict=True)]
    advantages = np.array([target[i] - value[i] for i in rows])
    if standardise:
        advantages = (advantages - advantages.mean()) / advantages.std()
    everything = np.ones(len(rows), bool)
    support = top_k(advantages, everything, fraction)
    weights = psi(advantages, support, eta)
    loss_value = sum(0.5 * (value[i] - target[i]) ** 2 for i in rows) / len(rows)
    loss_policy = -sum(weights[n] * log_prob[i] for n, i in enumerate(rows))
    loss_eta = temperature_loss(advantages, support, eta, epsilon_eta)
    mean_kls = [sum(kl[i] for i in rows) / len(rows) for kl in kls]
    loss_alpha = 0.0
    for kl, alpha, epsilon in zip(mean_kls, alphas, epsilons_alpha, strict=True):
        loss_alpha += alpha * (epsilon - kl) + alpha * kl  # two copies of KL: one moves alpha, the other theta
    full = np.zeros(valid.shape)
    for n, i in enumerate(rows):
        full[i] = weights[n]
    total = loss_value + loss_policy + loss_eta + loss_alpha
    return VMPOLoss(total, loss_value, loss_policy, loss_eta, loss_alpha, full, mean_kls)


class PPOLoss(NamedTuple):
    """The clipped surrogate (to minimise), the value term, mean entropy, and the share of steps outside the clip."""

    policy: float
    value: float
    entropy: float
    clip_fraction: float


def normalise(advantages: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(A - mean) / std with both taken over the valid steps only."""
    chosen = advantages[valid]
    return np.where(valid, (advantages - chosen.mean()) / chosen.std(), 0.0)


def ppo_loss(
    log_prob: np.ndarray,
    old_log_prob: np.ndarray,
    advantages: np.ndarray,
    value: np.ndarray,
    target: np.ndarray,
    entropy: np.ndarray,
    valid: np.ndarray,
    clip: float,
) -> PPOLoss:
    """PPO on [T, B] arrays, a step at a time; advantages come as they shall be used; value term: mean (V - R)^2 / 2."""
    surrogate, squared, bonus, outside = [], [], [], []
    for i in zip(*np.nonzero(valid), strict=True):
        ratio = math.exp(log_prob[i] - old_log_prob[i])
        clipped = min(max(ratio, 1 - clip), 1 + clip)
        surrogate.append(min(ratio * advantages[i], clipped * advantages[i]))
        squared.append(0.5 * (value[i] - target[i]) ** 2)
        bonus.append(entropy[i])
        outside.append(abs(ratio - 1) > clip)
    return PPOLoss(-np.mean(surrogate), np.mean(squared), np.mean(bonus), np.mean(outside))


def central_difference(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """d function / dx of a scalar function of a float64 array, entry by entry."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


# ---------------------------------------------------------------------------------------------- batches


class Batch(NamedTuple):
    """A small unroll in numpy and what a network might say about it.

    `reward` [T + 1, B]; `action` [T, B(, A)]; `old` [T, B, P] and `new` [T + 1, B, P], the parameters of the policies
    (logits, or means then standard deviations); `value` [T + 1, B] in normalised units.
    """

    ends: Ends
    reward: np.ndarray
    action: np.ndarray
    old: np.ndarray
    new: np.ndarray
    value: np.ndarray

    @property
    def continuous(self) -> bool:
        return self.action.ndim == 3

    @property
    def valid(self) -> np.ndarray:
        return valid_steps(self.ends)

    def log_prob(self, parameters: np.ndarray) -> np.ndarray:
        """[T, B] of the actions under `parameters` [T or T + 1, B, P]."""
        parameters = parameters[: len(self.action)]
        if self.continuous:
            return gaussian_log_prob(*np.split(parameters, 2, -1), self.action)
        return categorical_log_prob(parameters, self.action)

    def kls(self, new: np.ndarray) -> list[np.ndarray]:
        """[T, B] each: KL(old || new) in the parts that have a multiplier each."""
        new = new[: len(self.action)]
        if not self.continuous:
            return [categorical_kl(self.old, new)]
        (mean_old, std_old), (mean_new, std_new) = np.split(self.old, 2, -1), np.split(new, 2, -1)
        return [gaussian_kl_mean(mean_old, std_old, mean_new), gaussian_kl_std(std_old, std_new)]

    def kl(self, new: np.ndarray) -> np.ndarray:
        """[T, B]: KL(old || new), whole."""
        if self.continuous:
            return gaussian_kl(*np.split(self.old, 2, -1), *np.split(new[: len(self.action)], 2, -1))
        return self.kls(new)[0]

    def entropy(self, parameters: np.ndarray) -> np.ndarray:
        """[T, B]."""
        parameters = parameters[: len(self.action)]
        return gaussian_entropy(np.split(parameters, 2, -1)[1]) if self.continuous else categorical_entropy(parameters)


def space(continuous: bool, actions: int = 3) -> Reals | Choice:
    """The action space of the batches here."""
    return Reals(actions) if continuous else Choice(actions)


def random_batch(seed: int, continuous: bool, steps: int = 5, batch: int = 4, actions: int = 3) -> Batch:
    """Policies a little apart, episodes that end in every way; reset steps carry no reward."""
    rng = np.random.default_rng(seed)
    ends = random_ends(rng, steps, batch)
    reward = np.where(ends.first, 0.0, rng.normal(size=(steps + 1, batch)))
    if continuous:
        action = rng.normal(size=(steps, batch, actions))
        old = np.concatenate([rng.normal(size=action.shape), rng.uniform(0.4, 1.2, action.shape)], -1)
        scale = np.exp(0.1 * rng.normal(size=(steps + 1, batch, actions)))
        drift = np.concatenate([0.2 * rng.normal(size=scale.shape), np.zeros_like(scale)], -1)
        new = np.concatenate([old, old[-1:]]) * np.concatenate([np.ones_like(scale), scale], -1) + drift
    else:
        action = rng.integers(actions, size=(steps, batch))
        old = rng.normal(size=(steps, batch, actions))
        new = np.concatenate([old, old[-1:]]) + 0.4 * rng.normal(size=(steps + 1, batch, actions))
    return Batch(ends, reward, action, old, new, rng.normal(size=(steps + 1, batch)))


def garbage(batch: Batch, seed: int) -> Batch:
    """The same batch with other numbers wherever nothing may look: actions and policies of an episode's last step, the
    reward of a reset, the value of a dead state."""
    rng = np.random.default_rng(seed)
    void = ~batch.valid
    noise = np.exp if batch.continuous else np.asarray  # standard deviations stay positive
    every = np.append(void, np.zeros((1, void.shape[1]), bool), 0)
    reset = np.append(np.zeros((1, void.shape[1]), bool), void, 0)
    action = rng.normal(size=batch.action.shape) * 9 if batch.continuous else rng.integers(3, size=batch.action.shape)
    return Batch(
        batch.ends,
        np.where(reset, 50 * rng.normal(size=reset.shape), batch.reward),
        np.where(void[..., None] if batch.continuous else void, action, batch.action),
        np.where(void[..., None], noise(2 * rng.normal(size=batch.old.shape)), batch.old),
        np.where(every[..., None], noise(2 * rng.normal(size=batch.new.shape)), batch.new),
        np.where(batch.ends.terminated, 50 * rng.normal(size=batch.value.shape), batch.value),
    )


def permute(batch: Batch, order: np.ndarray) -> Batch:
    """The environments in another order."""
    return Batch(Ends(*(x[:, order] for x in batch.ends)), *(x[:, order] for x in batch[1:]))


# ---------------------------------------------------------------------------------------------- to the package


def to_torch(
    batch: Batch, dtype: torch.dtype = torch.float64, mean: float = 0.0, std: float = 1.0
) -> tuple[Output, Unroll, torch.Tensor, torch.Tensor]:
    """The batch as a network's output and an unroll, then the two leaves: policy parameters and values.

    `mean` and `std` are PopArt's: the unroll has the values in units of the return.
    """
    parameters = torch.tensor(batch.new, dtype=dtype, requires_grad=True)
    value = torch.tensor(batch.value, dtype=dtype, requires_grad=True)
    action = torch.tensor(batch.action, dtype=dtype if batch.continuous else torch.int64)
    previous_action = torch.cat([torch.zeros_like(action[:1]), action])
    unroll = Unroll(
        observation=torch.zeros(*batch.value.shape, 1),
        reward=torch.tensor(batch.reward, dtype=dtype),
        first=torch.tensor(batch.ends.first),
        terminated=torch.tensor(batch.ends.terminated),
        truncated=torch.tensor(batch.ends.truncated),
        previous_action=previous_action,
        policy=torch.tensor(batch.old, dtype=dtype),
        value=torch.tensor(batch.value * std + mean, dtype=dtype),
        task=torch.zeros(batch.value.shape[1], dtype=torch.int64),
        state=(),
    )
    return Output(space(batch.continuous).distribution(parameters), value, ()), unroll, parameters, value


def popart(mean: float = 0.0, std: float = 1.0) -> PopArtHead:
    """A head whose statistics are these."""
    head = PopArtHead(1, 1)
    head.mean.fill_(mean)
    head.std.fill_(std)
    return head


def plan_of(agent, unroll: Unroll, head: PopArtHead, settle=once) -> Plan:
    """The agent's plan of `unroll` as a batch of its own."""
    evaluation = evaluate_policy(unroll, agent.config.discount, agent.config.gae_lambda)
    return agent.plan(unroll, evaluation, head, settle)


class Learned(NamedTuple):
    """A batch learned from as one minibatch: `loss` of the M-step, the `plan` before it, all that both log.

    `total` is their sum, the loss as V-MPO publishes it (eq. 2): with L_eta.
    """

    loss: Loss
    plan: Plan

    @property
    def total(self) -> torch.Tensor:
        return self.loss.total + self.plan.dual_loss

    @property
    def metrics(self) -> dict[str, torch.Tensor]:
        return self.plan.metrics | self.loss.metrics


def learned(agent, output: Output, unroll: Unroll, head: PopArtHead, annealing: float = 1.0) -> Learned:
    """Plan and loss of the whole of `unroll`, under a network that says `output`."""
    plan = plan_of(agent, unroll, head)
    return Learned(agent.loss(one_pass(output, unroll), unroll, plan, head, annealing), plan)
