from results.experiment import Experiment, Run

SEEDS = range(5)
AGENTS = ("vmpo", "awr", "rl-em", "dar", "at-dar", "dar-tr", "topk-dar", "ppo")

EXPERIMENT = Experiment(
    name="methods_cartpole",
    title="Every method: CartPole-v1",
    question="How do the rows of the table, and PPO, compare on one budget, and how far does each move the policy?",
    runs=tuple(
        Run(agent, seed, f"runners.control --env CartPole-v1 --core feedforward --steps 300000 --agent {agent}")
        for agent in AGENTS
        for seed in SEEDS
    ),
    bar=475,
    diagnostics=("m_step/kl", "m_step/entropy", "e_step/ess_share", "e_step/kl_reference"),
)
