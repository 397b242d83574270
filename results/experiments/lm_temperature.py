from results.experiment import ROLLOUTS, Experiment, Run

SEEDS = range(5)
METHODS = {
    "vmpo, dual eta": "--method vmpo",
    "vmpo, eta 0.3": "--method gempi --filter top-k --trust-region dual --temperature fixed --lambda-behaviour 0.3",
    "at-dar, dual": "--method at-dar",
    "dar, fixed": "--method dar",
}

EXPERIMENT = Experiment(
    name="lm_temperature",
    title="Language model: dual or fixed coefficients",
    question="Sorting, with rewards times 0.1, 1 and 10: do dual coefficients make up for the scale?",
    runs=tuple(
        Run(
            f"{label}, rewards x{scale}",
            seed,
            f"runners.lm --task sort --rollouts 200 --base-dir runs/bases --reward-scale {scale} {flags}",
        )
        for seed in SEEDS
        for scale in (0.1, 1, 10)
        for label, flags in METHODS.items()
    ),
    unit=ROLLOUTS,
    metric="reward",
    bar=0.95,
    diagnostics=("e_step/ess_share", "m_step/kl"),
)

EXPERIMENTS = (EXPERIMENT,)
