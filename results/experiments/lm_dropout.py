from results.experiment import ROLLOUTS, Experiment, Run

SEEDS = range(5)
TASK = "runners.lm --task sort --rollouts 200 --base-dir runs/bases"
METHODS = {
    "ppo, sequence": "--method ppo",
    "ppo, token": "--method ppo --ratio token",
    "awr": "--method awr",
    "dar": "--method dar",
    "vmpo, no trust region": "--method gempi --trust-region none",
    "vmpo": "--method vmpo",
    "dpo": "--method dpo --updates 4",
}
COMPARE = ("ppo, sequence", "ppo, token", "vmpo")
"""Methods that compare the network with pi_t, so that it matters under which mask."""


ANNEALED = "--method vmpo --anneal --learning-rate 6e-4"
"""Of 1e-4 to 1e-3 the best rate for V-MPO with p = 0.1, tried on seed 11."""


def schemes(label: str, p: float) -> tuple[str, ...]:
    return ("whole", "masked") if p and label in COMPARE else ("",)


EXPERIMENT = Experiment(
    name="lm_dropout",
    title="Language model: dropout in the M-step",
    question="Sorting, with dropout while the base model and the M-step learn: which method, and which comparison with "
    "pi_t, bears it?",
    runs=(
        *(
            Run(
                f"{label}, p = {p:g}" + (f", {scheme}" if scheme else ""),
                seed,
                f"{TASK} {flags} --dropout {p:g}" + (f" --dropout-scheme {scheme}" if scheme else ""),
            )
            for seed in SEEDS
            for p in (0, 0.1, 0.2)
            for label, flags in METHODS.items()
            for scheme in schemes(label, p)
        ),
        *(
            Run(f"vmpo, p = {p:g}, 6e-4 to 0", seed, f"{TASK} {ANNEALED} --dropout {p:g}")
            for seed in SEEDS
            for p in (0, 0.1)
        ),
    ),
    unit=ROLLOUTS,
    metric="reward",
    diagnostics=("m_step/kl", "m_step/ratio_variance", "m_step/clipped"),
)

EXPERIMENTS = (EXPERIMENT,)
