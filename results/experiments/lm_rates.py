from results.experiment import ROLLOUTS, Experiment, Run
from results.experiments.lm_sort import METHODS, SEEDS

EXPERIMENT = Experiment(
    name="lm_rates",
    title="Language model: rates below and above the default",
    question="Sorting at a third and three times the rate of 1e-4 that all methods have by default: whom does it help?",
    runs=tuple(
        Run(
            f"{label}, {rate}",
            seed,
            f"runners.lm --task sort --rollouts 200 --base-dir runs/bases --learning-rate {rate} {flags}",
        )
        for seed in SEEDS
        for label, flags in METHODS.items()
        for rate in ("3e-5", "3e-4")
    ),
    unit=ROLLOUTS,
    metric="reward",
    bar=0.95,
    diagnostics=("m_step/kl", "e_step/ess_share"),
)
