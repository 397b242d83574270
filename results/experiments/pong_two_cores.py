from results.experiment import Experiment, Run

STEPS = 2_000_000
SEEDS = (1, 2, 3)

EXPERIMENT = Experiment(
    name="pong_two_cores",
    title="Pong from pixels, the default command",
    question="How long does the default command take to 18 on two cores, on seeds that nothing was tuned on?",
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
