from results.experiment import Experiment, Run
from results.experiments.pong import PONG

VMPO = f"{PONG} --agent vmpo --core gtrxl --steps"

EXPERIMENT = Experiment(
    name="pong_steps",
    title="Pong from pixels, how many steps",
    question="How many steps must the preset give V-MPO with a GTrXL, its rate falling over the last fifth of them?",
    runs=(
        *(Run("vmpo-gtrxl, 1.6M", seed, f"{VMPO} 1600000") for seed in (1, 2, 3)),
        *(Run("vmpo-gtrxl, 1.2M", seed, f"{VMPO} 1200000") for seed in (1, 2)),
        *(Run("vmpo-gtrxl, 1M", seed, f"{VMPO} 1000000") for seed in (1, 2, 3)),
    ),
    cores=2,
    bar=18,
)
