from results.experiment import Experiment, Run

SEEDS = range(5)
RUNGS = {
    "preset": "",
    "returns to the unroll's end": "--gae-lambda 1",
    "advantages as they come": "--no-standardise-advantages",
    "top-k 1": "--top-k 1",
    "epsilon_eta 0.1": "--epsilon-eta 0.1",
    "epsilon_eta 0.02": "--epsilon-eta 0.02",
    "E-step a gradient step": "--e-step minibatch",
    "values online": "--values online",
    "T_target 4 batches": "--target-period 4",
    "alpha idle": "--epsilon-alpha 1",
    "entropy bonus": "--entropy-coefficient 0.01",
    "control variate": "--control-variate 1",
}
"""The preset, and one change to it each."""
TASKS = {"recall-10": "--steps 200000", "recall-30": "--steps 400000"}

EXPERIMENT = Experiment(
    name="ladder_recall",
    title="The ladder, recall",
    question="What does V-MPO with an LSTM need to carry a cue over 10 and over 30 steps? The preset, and one change "
    "to it each.",
    runs=tuple(
        Run(
            f"{task}, {label}",
            seed,
            f"runners.control --env {task} --core lstm {steps} --eval-policy sample --log-seconds 1 {flags}".strip(),
        )
        for task, steps in TASKS.items()
        for label, flags in RUNGS.items()
        for seed in SEEDS
    ),
    metric="share of right answers",
    bar=0.95,
    diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "e_step/ess_share"),
)
