from results.experiment import Experiment, Run

STEPS = 400_000
SEEDS = (0, 1, 2)


def recall(delay: int, memory: int, steps: int, options: str = "") -> Experiment:
    """V-MPO with each core on the recall task: a cue, `delay` distractors, then the answer."""
    return Experiment(
        name=f"recall{delay}",
        title=f"Recall after {delay} steps",
        question=f"Which cores carry a cue across {delay} distractors? Without memory it is a guess among four.",
        runs=tuple(
            Run(
                f"vmpo-{core}",
                seed,
                f"runners.control --env recall-{delay} --agent vmpo --core {core} --memory {memory} --steps {steps}"
                f" --epsilon-eta 1{options} --actors 0 --eval-episodes 100 --eval-policy sample --log-seconds 1",
            )
            for seed in SEEDS
            for core in ("feedforward", "lstm", "trxl-i", "gtrxl")
        ),
        metric="share of right answers",
        bar=0.95,
    )


EXPERIMENT = recall(30, memory=64, steps=STEPS)
