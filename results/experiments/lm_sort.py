from results.experiment import ROLLOUTS, Experiment, Run

SEEDS = range(5)
METHODS = {
    "vmpo": "--method vmpo",
    "vmpo, no trust region": "--method gempi --trust-region none",
    "awr": "--method awr",
    "rl-em": "--method rl-em --lambda-reference 1",
    "dar": "--method dar",
    "at-dar": "--method at-dar",
    "dar-tr": "--method dar-tr",
    "topk-dar": "--method topk-dar",
    "ppo, sequence": "--method ppo",
    "ppo, token": "--method ppo --ratio token",
}


def methods(name: str, title: str, task: str, **options) -> Experiment:
    """Every method that draws its own completions."""
    return Experiment(
        name=f"lm_{name}",
        title=title,
        question="How much reward does each method gain from 200 rollouts of 64 completions with 4 updates each?",
        runs=tuple(
            Run(label, seed, f"runners.lm --task {task} --rollouts 200 --base-dir runs/bases {flags}")
            for label, flags in METHODS.items()
            for seed in SEEDS
        ),
        unit=ROLLOUTS,
        metric="reward",
        diagnostics=("m_step/kl", "e_step/ess_share"),
        **options,
    )


EXPERIMENT = methods("sort", "Language model: sort eight digits", "sort", bar=0.95)
