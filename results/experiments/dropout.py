from results.experiment import Experiment, Run
from results.experiments import RECALL10

SEEDS = range(3)
SCHEMES = ("whole", "masked", "paired")
METHODS = {
    "vmpo": ("--agent vmpo", SCHEMES),
    "awr": ("--agent awr", ("whole",)),
    "ppo": ("--agent ppo", SCHEMES),
}
"""Flags of a method, and the schemes that make a difference to it."""


def dropout(name: str, title: str, task: str, **options) -> Experiment:
    """Return the experiment of V-MPO, AWR and PPO with dropout, under each scheme."""
    return Experiment(
        name=f"dropout_{name}",
        title=f"Dropout in the M-step, {title}",
        question="With dropout while learning alone, what should the trust region and PPO's ratio compare?",
        runs=tuple(
            Run(
                f"{method}, p = {p}" + (f", {scheme}" if p and len(schemes) > 1 else ""),
                seed,
                f"runners.control {task} --log-seconds 1 {flags}"
                + (f" --dropout {p}" if p else "")
                + (f" --dropout-scheme {scheme}" if p and len(schemes) > 1 else ""),
            )
            for method, (flags, schemes) in METHODS.items()
            for p in (0, 0.1)
            for scheme in (schemes if p else schemes[:1])
            for seed in SEEDS
        ),
        diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "m_step/ratio_variance", "m_step/clipped"),
        **options,
    )


EXPERIMENTS = (
    dropout("cartpole", "CartPole-v1", "--env CartPole-v1 --core lstm --steps 300000", bar=475),
    dropout("recall10", "recall after 10 steps", **RECALL10),
)
