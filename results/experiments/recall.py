from results.experiment import Experiment, Run

SEEDS = range(5)


def recall(delay: int, memory: int, steps: int, cores: tuple[str, ...]) -> Experiment:
    """Return the experiment of V-MPO with each of `cores`, and of PPO with a memory, on the recall task.

    An episode is a cue, `delay` distractors and the answer.
    """
    rows = [("vmpo", core) for core in cores] + [("ppo", core) for core in ("lstm", "gtrxl")]
    return Experiment(
        name=f"recall{delay}",
        title=f"Recall after {delay} steps",
        question=f"Which cores carry a cue across {delay} distractors? Without memory it is a guess among four.",
        runs=tuple(
            Run(
                f"{agent}-{core}",
                seed,
                f"runners.control --env recall-{delay} --agent {agent} --core {core} --memory {memory} --steps {steps}"
                " --eval-policy sample --log-seconds 1",
            )
            for seed in SEEDS
            for agent, core in rows
        ),
        metric="share of right answers",
        bar=0.95,
        diagnostics=("m_step/kl", "m_step/entropy", "e_step/ess_share"),
    )


EXPERIMENTS = (
    recall(10, memory=16, steps=200_000, cores=("feedforward", "lstm", "gtrxl")),
    recall(30, memory=64, steps=400_000, cores=("feedforward", "lstm", "trxl-i", "gtrxl")),
)
