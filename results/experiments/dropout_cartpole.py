from results.experiment import Experiment, Run

SEEDS = range(5)
COMPARED = {"vmpo": ("whole", "masked", "paired"), "awr": ("whole",), "ppo": ("whole", "masked", "paired")}


def dropout(name: str, title: str, task: str, **options) -> Experiment:
    """V-MPO, AWR and PPO with dropout, under each scheme."""
    return Experiment(
        name=f"dropout_{name}",
        title=f"Dropout in the M-step, {title}",
        question="With dropout while learning alone, what should the trust region and PPO's ratio compare?",
        runs=tuple(
            Run(
                f"{agent}, p = {p}" + (f", {scheme}" if p and len(schemes) > 1 else ""),
                seed,
                f"runners.control {task} --log-seconds 1 --agent {agent}"
                + (f" --dropout {p} --dropout-scheme {scheme}" if p else ""),
            )
            for agent, schemes in COMPARED.items()
            for p in (0, 0.1, 0.3)
            for scheme in (schemes if p else schemes[:1])
            for seed in SEEDS
        ),
        diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "m_step/ratio_variance", "m_step/clipped"),
        **options,
    )


EXPERIMENT = dropout("cartpole", "CartPole-v1", "--env CartPole-v1 --core lstm --steps 300000", bar=475)
