from results.experiment import Experiment, Run
from results.experiments.ladder_pong import PUBLISHED, SEEDS

COMMAND = "runners.atari --game Breakout --steps 1600000 --actors 0 --no-video"
ENDS = {"as published": " ".join(PUBLISHED.values()), "preset": ""}

EXPERIMENT = Experiment(
    name="ladder_breakout",
    title="The ladder's ends, Breakout",
    question="V-MPO as published, and the preset, with the same small network and number of steps.",
    runs=tuple(Run(label, seed, f"{COMMAND} {flags}".strip()) for label, flags in ENDS.items() for seed in SEEDS),
    diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "e_step/ess_share"),
)
