from results.experiment import Experiment, Run

SEEDS = range(5)
AGENTS = ("vmpo", "awr", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar", "ppo")

EXPERIMENT = Experiment(
    name="methods_recall10",
    title="Every method: recall after 10 steps",
    question="How do the rows of the table, and PPO, compare on one budget, and how far does each move the policy?",
    runs=tuple(
        Run(
            agent,
            seed,
            f"runners.control --env recall-10 --core lstm --steps 200000 --eval-policy sample --agent {agent}",
        )
        for agent in AGENTS
        for seed in SEEDS
    ),
    metric="share of right answers",
    bar=0.95,
    diagnostics=("m_step/kl", "m_step/entropy", "e_step/ess_share", "e_step/kl_reference"),
)
