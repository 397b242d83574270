from results.experiment import Experiment, Run

STEPS = 1_500_000
SEEDS = (0,)

EXPERIMENT = Experiment(
    name="pong",
    title="Pong from pixels",
    question="On one core, how far do V-MPO and PPO get with a GTrXL and an LSTM memory inside 30 minutes?",
    runs=tuple(
        Run(
            f"{agent}-{core}",
            seed,
            f"runners.atari --game Pong --agent {agent} --core {core} --steps {STEPS} --actors 0 --eval-episodes 30",
        )
        for seed in SEEDS
        for agent in ("vmpo", "ppo")
        for core in ("gtrxl", "lstm")
    ),
    bar=18,
)
