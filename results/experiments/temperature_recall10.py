from results.experiment import Experiment, Run

SEEDS = range(5)
ROW = "--agent gempi --filter top-k --trust-region dual --no-standardise-advantages"
TEMPERATURES = {"dual": "--temperature dual"} | {
    f"eta {eta}": f"--temperature fixed --lambda-behaviour {eta}" for eta in (0.03, 0.1, 0.3, 1, 3, 10)
}

EXPERIMENT = Experiment(
    name="temperature_recall10",
    title="Dual or fixed temperature: recall after 10 steps",
    question="V-MPO with its dual eta and with fixed ones, on advantages as they come, rewards times 0.1, 1 and 10: "
    "does one fixed eta serve all scales?",
    runs=tuple(
        Run(
            f"{label}, rewards x{scale}",
            seed,
            f"runners.control --env recall-10 --core lstm --steps 200000 --eval-policy sample {ROW} {flags}"
            f" --reward-scale {scale}",
        )
        for scale in (0.1, 1, 10)
        for label, flags in TEMPERATURES.items()
        for seed in SEEDS
    ),
    metric="share of right answers",
    bar=0.95,
    diagnostics=("e_step/eta", "e_step/ess_share", "m_step/entropy"),
)
