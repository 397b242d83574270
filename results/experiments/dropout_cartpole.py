from results.experiment import Experiment, Run

SEEDS = range(5)
COMPARED = {"vmpo": ("whole", "masked", "paired"), "awr": ("whole",), "ppo": ("whole", "masked", "paired")}

EXPERIMENT = Experiment(
    name="dropout_cartpole",
    title="Dropout in the M-step: CartPole-v1",
    question="With dropout while learning alone, what should the trust region and PPO's ratio compare?",
    runs=tuple(
        Run(
            f"{agent}, p = {p}" + (f", {scheme}" if p and len(schemes) > 1 else ""),
            seed,
            f"runners.control --env CartPole-v1 --core lstm --steps 300000 --agent {agent}"
            + (f" --dropout {p} --dropout-scheme {scheme}" if p else ""),
        )
        for agent, schemes in COMPARED.items()
        for p in (0, 0.1, 0.3)
        for scheme in (schemes if p else schemes[:1])
        for seed in SEEDS
    ),
    bar=475,
    diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "m_step/ratio_variance", "m_step/clipped"),
)
