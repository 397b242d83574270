from results.experiment import Experiment, Run

FLAGS = "runners.atari --game Pong --eval-episodes 30"
VMPO = f"{FLAGS} --agent vmpo --core gtrxl"
WIDE = "--nature-channels 32 64 64 --torso-hidden 512 --steps 1100000"
"""The Nature CNN as it was published, which the preset halves; trained before the preset's rate fell at the end."""
WIDE_VMPO = f"{VMPO} {WIDE} --no-anneal"
WIDE_RUNS = {
    "vmpo-gtrxl, wide": ((1, 2, 3), WIDE_VMPO),
    "vmpo-gtrxl, wide, again": ((1, 2, 3), WIDE_VMPO),
    "vmpo-lstm, wide": ((1,), f"{FLAGS} --agent vmpo --core lstm {WIDE} --no-anneal"),
    "ppo-gtrxl, wide": ((1,), f"{FLAGS} --agent ppo --core gtrxl {WIDE}"),
    "ppo-lstm, wide": ((1,), f"{FLAGS} --agent ppo --core lstm {WIDE}"),
}

EXPERIMENT = Experiment(
    name="pong",
    title="Pong from pixels",
    question="How far does V-MPO with a GTrXL get on two cores by the preset, and with the whole Nature CNN, beside "
    "PPO and an LSTM?",
    runs=(
        *(Run("vmpo-gtrxl", seed, VMPO) for seed in (1, 2, 3)),
        *(Run("vmpo-gtrxl, earlier", seed, f"{VMPO} --steps 1600000") for seed in (1, 2, 3)),
        *(Run("vmpo-gtrxl, 1.2M", seed, f"{VMPO} --steps 1200000") for seed in (1, 2)),
        *(Run("vmpo-gtrxl, 1M", seed, f"{VMPO} --steps 1000000") for seed in (1, 2, 3)),
        *(Run(label, seed, command) for label, (seeds, command) in WIDE_RUNS.items() for seed in seeds),
    ),
    cores=2,
    bar=18,
)
