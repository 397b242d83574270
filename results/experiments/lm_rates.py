from results.experiment import ROLLOUTS, Experiment, Run
from results.experiments.lm_sort import METHODS, SEEDS


def rates(name: str, title: str, task: str, **options) -> Experiment:
    """Every method that draws its own completions, at rates around the default."""
    return Experiment(
        name=name,
        title=title,
        question="A third of the rate of 1e-4 that all methods have by default, and three times it: whom does it help?",
        runs=tuple(
            Run(
                f"{label}, {rate}",
                seed,
                f"runners.lm --task {task} --rollouts 200 --base-dir runs/bases --learning-rate {rate} {flags}",
            )
            for seed in SEEDS
            for label, flags in METHODS.items()
            for rate in ("3e-5", "3e-4")
        ),
        unit=ROLLOUTS,
        metric="reward",
        diagnostics=("m_step/kl", "e_step/ess_share"),
        **options,
    )


EXPERIMENT = rates("lm_rates", "Language model: rates below and above the default", "sort", bar=0.95)
