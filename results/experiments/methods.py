from results.experiment import Experiment, Run
from results.experiments import CARTPOLE, RECALL10

SEEDS = range(5)
AGENTS = ("vmpo", "awr", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar", "rest-em", "ppo")


def methods(name: str, title: str, task: str, **options) -> Experiment:
    """Return the experiment of every row of the table of methods, and PPO."""
    return Experiment(
        name=f"methods_{name}",
        title=f"Every method, {title}",
        question="How do the rows of the table, and PPO, compare on one budget, and how far does each move the policy?",
        runs=tuple(
            Run(agent, seed, f"runners.control {task} --log-seconds 1 --agent {agent}")
            for agent in AGENTS
            for seed in SEEDS
        ),
        diagnostics=("m_step/kl", "m_step/entropy", "e_step/ess_share", "e_step/kl_reference"),
        **options,
    )


EXPERIMENTS = (
    methods("cartpole", "CartPole-v1", **CARTPOLE),
    methods("recall10", "recall after 10 steps", **RECALL10),
)
