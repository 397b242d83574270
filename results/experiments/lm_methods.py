from dataclasses import replace

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
"""Every method that draws its own completions."""


def experiment(name: str, title: str, question: str, runs: tuple[Run, ...], bar: float | None) -> Experiment:
    return Experiment(
        f"lm_{name}",
        f"Language model: {title}",
        question,
        runs,
        unit=ROLLOUTS,
        metric="reward",
        bar=bar,
        diagnostics=("m_step/kl", "e_step/ess_share"),
    )


def methods(name: str, title: str, task: str, bar: float | None = None) -> Experiment:
    """Return the experiment of all methods at the default rate."""
    command = f"runners.lm --task {task} --rollouts 200 --base-dir runs/bases"
    runs = tuple(Run(label, seed, f"{command} {flags}") for label, flags in METHODS.items() for seed in SEEDS)
    question = "How much reward does each method gain from 200 rollouts of 64 completions with 4 updates each?"
    return experiment(name, title, question, runs, bar)


def published(name: str, title: str, task: str, bar: float | None = None) -> Experiment:
    """Return the experiment of methods at their papers' settings, at as many completions as `methods` draws."""
    command = f"runners.lm --task {task} --rollouts 200 --base-dir runs/bases --preset paper --prompts"
    runs = tuple(
        Run(f"{method}, published", seed, f"{command} {64 // completions} --method {method}")
        for seed in SEEDS
        for method, completions in {"vmpo": 8, "awr": 8, "rl-em": 4, "dar": 4}.items()
    )
    question = "How much reward does each method gain at the settings of its own paper, from as many completions?"
    own = experiment(name, title, question, runs, bar)
    return replace(own, diagnostics=(*own.diagnostics, "e_step/saturated"))


def rates(name: str, title: str, task: str, bar: float | None = None) -> Experiment:
    """Return the experiment of all methods at rates around the default."""
    command = f"runners.lm --task {task} --rollouts 200 --base-dir runs/bases"
    runs = tuple(
        Run(f"{label}, {rate}", seed, f"{command} --learning-rate {rate} {flags}")
        for seed in SEEDS
        for label, flags in METHODS.items()
        for rate in ("3e-5", "3e-4")
    )
    question = "A third of the rate of 1e-4 that all methods have by default, and three times it: whom does it help?"
    return experiment(name, title, question, runs, bar)


EXPERIMENTS = (
    methods("sort", "sort eight digits", "sort", bar=0.95),
    methods("sort_weak", "sort eight digits, from a weak base", "sort-weak"),
    methods("walks", "shortest paths from random walks", "walks", bar=0.97),
    published("sort_paper", "sort eight digits, settings of the papers", "sort", bar=0.95),
    published("sort_weak_paper", "a weak base, settings of the papers", "sort-weak"),
    published("walks_paper", "shortest paths, settings of the papers", "walks", bar=0.97),
    rates("rates", "rates below and above the default", "sort", bar=0.95),
    rates("rates_sort_weak", "rates from a weak base", "sort-weak"),
    rates("rates_walks", "rates on shortest paths", "walks", bar=0.97),
)
