from results.experiment import Experiment, Run
from results.experiments import CARTPOLE, RECALL10

SEEDS = range(5)
# Budgets that are equal to second order: near pi_t, chi-square is 2 KL and Renyi of order a is a KL.
DIVERGENCES = {
    "kl": "--divergence kl --epsilon-eta 0.1",
    "chi-square": "--divergence chi-square --epsilon-eta 0.2",
    "renyi 0.5": "--divergence renyi --renyi-order 0.5 --epsilon-eta 0.05",
    "renyi 2": "--divergence renyi --renyi-order 2 --epsilon-eta 0.2",
}


def divergences(name: str, title: str, task: str, **options) -> Experiment:
    """Return the experiment of V-MPO with each divergence in the place of its KL."""
    return Experiment(
        name=f"divergences_{name}",
        title=f"Divergences of the E-step, {title}",
        question="V-MPO with its KL replaced, on a budget equal to second order: does the shape of the tilt matter?",
        runs=tuple(
            Run(label, seed, f"runners.control {task} --log-seconds 1 --agent gempi {flags}")
            for label, flags in DIVERGENCES.items()
            for seed in SEEDS
        ),
        diagnostics=("e_step/kl", "e_step/ess_share", "e_step/max_weight", "m_step/kl"),
        **options,
    )


EXPERIMENTS = (
    divergences("cartpole", "CartPole-v1", **CARTPOLE),
    divergences("recall10", "recall after 10 steps", **RECALL10),
    divergences("acrobot", "Acrobot-v1", "--env Acrobot-v1 --core feedforward --steps 300000", bar=-100),
)
