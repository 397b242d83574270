from results.experiment import Experiment, Run

STEPS = 400_000
SEEDS = (0, 1, 2)

EXPERIMENT = Experiment(
    name="pendulum",
    title="Pendulum-v1",
    question="Does V-MPO with a Gaussian policy (decoupled mean and covariance KL) swing up and balance?",
    runs=tuple(
        Run(
            "vmpo-feedforward",
            seed,
            f"runners.control --env Pendulum-v1 --agent vmpo --core feedforward --steps {STEPS} --actors 0"
            " --discount 0.95 --learning-rate 3e-4 --entropy-coefficient 0"
            " --eval-episodes 100 --log-seconds 1",
        )
        for seed in SEEDS
    ),
    bar=-200,
)
