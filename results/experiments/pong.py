from results.experiment import Experiment, Run

STEPS = 1_100_000
SEEDS = {("vmpo", "gtrxl"): (1, 2, 3), ("vmpo", "lstm"): (1,), ("ppo", "gtrxl"): (1,), ("ppo", "lstm"): (1,)}

EXPERIMENT = Experiment(
    name="pong",
    title="Pong from pixels",
    question="On two cores, how far do V-MPO and PPO get with a GTrXL and an LSTM memory inside 30 minutes?",
    runs=tuple(
        Run(
            f"{agent}-{core}",
            seed,
            f"runners.atari --game Pong --agent {agent} --core {core} --steps {STEPS} --eval-episodes 30",
        )
        for (agent, core), seeds in SEEDS.items()
        for seed in seeds
    ),
    cores=2,
    bar=18,
)
