from results.experiment import Experiment, Run
from results.experiments import CARTPOLE, RECALL10

SEEDS = range(3)
ROW = "--agent gempi --filter top-k --trust-region dual --no-standardise-advantages"
TEMPERATURES = {"dual": "--temperature dual"} | {
    f"eta {eta}": f"--temperature fixed --lambda-behaviour {eta}" for eta in (0.03, 0.3, 3)
}


def temperature(name: str, title: str, task: str, **options) -> Experiment:
    """Return the experiment of V-MPO's eta, dual and fixed, with rewards of three sizes."""
    return Experiment(
        name=f"temperature_{name}",
        title=f"Dual or fixed temperature, {title}",
        question="V-MPO with its dual eta and with fixed ones, on advantages as they come, rewards times 0.1, 1 and "
        "10: does one fixed eta serve all scales?",
        runs=tuple(
            Run(
                f"{label}, rewards x{scale}",
                seed,
                f"runners.control {task} --log-seconds 1 {ROW} {flags} --reward-scale {scale}",
            )
            for scale in (0.1, 1, 10)
            for label, flags in TEMPERATURES.items()
            for seed in SEEDS
        ),
        diagnostics=("e_step/eta", "e_step/ess_share", "m_step/entropy"),
        **options,
    )


EXPERIMENTS = (
    temperature("cartpole", "CartPole-v1", **CARTPOLE),
    temperature("recall10", "recall after 10 steps", **RECALL10),
)
