from results.experiment import Experiment, Run
from results.experiments.pong import PONG

WIDE = "--nature-channels 32 64 64 --torso-hidden 512 --steps 1100000"
"""The Nature CNN as it was published, which the preset halves; trained before the preset's rate fell at the end."""
VMPO = f"{PONG} --agent vmpo --core gtrxl {WIDE} --no-anneal"

EXPERIMENT = Experiment(
    name="pong_wide",
    title="Pong from pixels, the whole Nature CNN",
    question="How far does V-MPO with a GTrXL get on two cores with the whole Nature CNN, beside PPO and an LSTM?",
    runs=(
        *(Run("vmpo-gtrxl, wide", seed, VMPO) for seed in (1, 2, 3)),
        *(Run("vmpo-gtrxl, wide, again", seed, VMPO) for seed in (1, 2, 3)),
        Run("vmpo-lstm, wide", 1, f"{PONG} --agent vmpo --core lstm {WIDE} --no-anneal"),
        Run("ppo-gtrxl, wide", 1, f"{PONG} --agent ppo --core gtrxl {WIDE}"),
        Run("ppo-lstm, wide", 1, f"{PONG} --agent ppo --core lstm {WIDE}"),
    ),
    cores=2,
    bar=18,
)
