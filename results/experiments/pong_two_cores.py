from results.experiment import Experiment, Run

SEEDS = (1, 2, 3)
COMMAND = "runners.atari --game Pong --agent vmpo --core gtrxl --eval-episodes 30"
KINDS = {"constant rate": "--steps 1500000 --no-anneal", "annealed": "--steps 2000000 --anneal"}

EXPERIMENT = Experiment(
    name="pong_two_cores",
    title="Pong from pixels on two cores",
    question="How far does V-MPO with GTrXL get on two cores, on seeds that nothing was tuned on, and how soon?",
    runs=tuple(
        Run(kind.replace(" ", "-"), seed, f"{COMMAND} {flags}") for kind, flags in KINDS.items() for seed in SEEDS
    ),
    cores=2,
    bar=18,
)
