from results.experiment import Experiment, Run

STEPS = 1_500_000
SEEDS = (1, 2, 3)

EXPERIMENT = Experiment(
    name="pong_two_cores",
    title="Pong from pixels on two cores",
    question="How far does V-MPO with GTrXL get on two cores, on seeds that nothing was tuned on, and how soon?",
    runs=tuple(
        Run(
            "vmpo-gtrxl",
            seed,
            f"runners.atari --game Pong --agent vmpo --core gtrxl --steps {STEPS} --eval-episodes 30",
        )
        for seed in SEEDS
    ),
    cores=2,
    bar=18,
)
