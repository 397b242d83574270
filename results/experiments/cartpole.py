from results.experiment import Experiment, Run

STEPS = 300_000
SEEDS = (0, 1, 2)

EXPERIMENT = Experiment(
    name="cartpole",
    title="CartPole-v1",
    question="Do both agents reach 475 of 500 with every kind of core, each run within 3 minutes?",
    runs=tuple(
        Run(
            f"{agent}-{core}",
            seed,
            f"runners.control --env CartPole-v1 --agent {agent} --core {core} --steps {STEPS} --actors 0"
            " --eval-episodes 100 --log-seconds 1",
        )
        for seed in SEEDS
        for agent in ("vmpo", "ppo")
        for core in ("feedforward", "lstm", "gtrxl")
    ),
    bar=475,
)
