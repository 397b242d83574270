"""A ladder from V-MPO as published to the preset `small`, one change a rung: what it needs where samples are few."""

from results.experiment import Experiment, Run

SEEDS = (10, 11, 12)
"""Seeds on Atari: none of those that the preset was chosen on, nor of README's table."""

PUBLISHED = {
    "learning rates": "--learning-rate 1e-4 --no-anneal --dual-learning-rate 1e-4 --max-gradient-norm 0",
    "PopArt": "--popart-step-size 1e-4 --value-coefficient 1",
    "pixels": "--no-centre-pixels",
    "warm-up": "--value-warmup 0",
    "T_target": "--target-period 125",
    "alpha": "--epsilon-alpha 0.007 --alpha-init 5",
    "eta": "--temperature dual --epsilon-eta 0.02",
    "E-step": "--e-step minibatch --values online",
    "advantages": "--no-standardise-advantages",
    "returns": "--gae-lambda 1 --discount 0.997",
    "evaluated weights": "--weight-average 0",
}
"""The paper's choice in the place of each of the preset's settings. T_target is 1,000 gradient steps, 8 a batch."""


def climb(published: dict[str, str]) -> dict[str, str]:
    """Return flags of each rung by its name: as published, then with one more of the preset's settings at a time."""
    names = list(published)
    rungs = {"as published": " ".join(published.values())}
    for i, name in enumerate(names):
        rungs[f"{i + 1}. {name}"] = " ".join(published[later] for later in names[i + 1 :])
    return rungs


ASIDE = {
    "preset, top-k 1": "--top-k 1",
    "preset, unroll 32": "--unroll 32",
    "preset, T_target 1 batch": "--target-period 1",
    "preset, epsilon_eta 0.02": "--epsilon-eta 0.02",
    "preset, epsilon_eta 0.5": "--epsilon-eta 0.5",
    "preset, alpha idle": "--epsilon-alpha 1",
    "preset, entropy bonus": "--entropy-coefficient 0.0025",
    "preset, constant rate": "--no-anneal",
    "preset, sticky actions 0.1 in training": "--sticky-actions 0.1 --eval-sticky-actions 0",
    "preset, control variate": "--control-variate 1",
    "preset, E-step a gradient step": "--e-step minibatch",
    "preset, values online": "--values online",
    "preset, eta by gradient steps": "--temperature dual",
    "preset, returns to the unroll's end": "--gae-lambda 1",
    "preset, advantages as they come": "--no-standardise-advantages",
}
"""One change to the preset each."""

COMMAND = "runners.atari --game {game} --steps 1600000 --actors 0 --no-video {flags}"
DIAGNOSTICS = ("m_step/kl", "m_step/alpha", "m_step/entropy", "e_step/ess_share")

PONG = Experiment(
    name="ladder_pong",
    title="The ladder, Pong",
    question="From V-MPO as published to the preset, a change a rung, then the preset with one change: what does V-MPO "
    "need where samples are few?",
    runs=tuple(
        Run(label, seed, COMMAND.format(game="Pong", flags=flags).strip())
        for label, flags in (climb(PUBLISHED) | ASIDE).items()
        for seed in SEEDS
    ),
    bar=18,
    diagnostics=DIAGNOSTICS,
)

BREAKOUT = Experiment(
    name="ladder_breakout",
    title="The ladder's ends, Breakout",
    question="V-MPO as published, and the preset, with the same small network and number of steps.",
    runs=tuple(
        Run(label, seed, COMMAND.format(game="Breakout", flags=flags).strip())
        for label, flags in {"as published": " ".join(PUBLISHED.values()), "preset": ""}.items()
        for seed in SEEDS
    ),
    diagnostics=DIAGNOSTICS,
)

RECALL_CHANGES = {
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

RECALL = Experiment(
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
        for task, steps in {"recall-10": "--steps 200000", "recall-30": "--steps 400000"}.items()
        for label, flags in RECALL_CHANGES.items()
        for seed in range(5)
    ),
    metric="share of right answers",
    bar=0.95,
    diagnostics=DIAGNOSTICS,
)

EXPERIMENTS = (PONG, BREAKOUT, RECALL)
