from results.experiment import Experiment, Run

STEPS = 120_000
SEEDS = (0, 1, 2, 3, 4)

EXPERIMENT = Experiment(
    name="control_variate",
    title="The control variate of the M-step",
    question="Does V-MPO's weighted likelihood learn recall-30 faster with its control variate, and with which filter?",
    runs=tuple(
        Run(
            f"{'control' if c else 'plain'}-{'half' if rho < 1 else 'all'}",
            seed,
            f"runners.control --env recall-30 --agent vmpo --core gtrxl --memory 64 --steps {STEPS} --epsilon-eta 1"
            f" --control-variate {c} --top-k {rho} --actors 0 --eval-episodes 100 --eval-policy sample --log-seconds 1",
        )
        for seed in SEEDS
        for c in (0, 1)
        for rho in (0.5, 1.0)
    ),
    metric="share of right answers",
    bar=0.95,
)
