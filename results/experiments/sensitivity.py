import numpy as np

from results.experiment import Experiment, Run

DRAWS = 15
CORES = ("lstm", "mingru", "trxl", "trxl-i", "gtrxl")
RANGES = {"--learning-rate": (1e-4, 1e-2), "--epsilon-alpha": (5e-4, 5e-2), "--epsilon-eta": (0.1, 2.0)}
"""Settings that are drawn, uniformly in their logarithms, and their ranges."""


def draw(number: int) -> str:
    """Return the flags of one draw of the settings, the same for every core."""
    rng = np.random.default_rng((1910_06764, number))
    values = {flag: np.exp(rng.uniform(*np.log(ends))) for flag, ends in RANGES.items()}
    return " ".join(f"{flag} {value:.3g}" for flag, value in values.items())


SENSITIVITY = Experiment(
    name="sensitivity_recall10",
    title="Settings drawn at random, recall after 10 steps",
    question="Which cores learn with settings that nobody has tuned? A seed is a draw of learning rate, epsilon_alpha "
    "and epsilon_eta, the same for every core (GTrXL, arXiv 1910.06764, table 3, has such a comparison).",
    runs=tuple(
        Run(
            core,
            number,
            f"runners.control --env recall-10 --core {core} --memory 16 --steps 200000 --eval-policy sample"
            f" --log-seconds 1 {draw(number)}",
        )
        for number in range(DRAWS)
        for core in CORES
    ),
    metric="share of right answers",
    bar=0.95,
    diagnostics=("m_step/kl", "m_step/entropy"),
)

EXPERIMENTS = (SENSITIVITY,)
