from results.experiment import Experiment, Run

SEEDS = range(5)
AGENTS = ("vmpo", "awr", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar", "ppo")


def methods(name: str, title: str, task: str, **options) -> Experiment:
    """Every row of the table, and PPO."""
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


EXPERIMENT = methods("cartpole", "CartPole-v1", "--env CartPole-v1 --core feedforward --steps 300000", bar=475)
