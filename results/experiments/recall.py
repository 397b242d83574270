from results.experiment import Experiment, Run


def recall(
    delay: int,
    memory: int,
    steps: int,
    vmpo: tuple[str, ...],
    ppo: tuple[str, ...] = ("lstm", "mingru", "gtrxl"),
    seeds: range = range(5),
    suffix: str = "",
    budget: str = "",
) -> Experiment:
    """Return the experiment of V-MPO and of PPO, each with some cores, on the recall task.

    An episode is a cue, `delay` distractors and the answer. `suffix` and `budget` end the name and the title.
    """
    rows = [("vmpo", core) for core in vmpo] + [("ppo", core) for core in ppo]
    return Experiment(
        name=f"recall{delay}{suffix}",
        title=f"Recall after {delay} steps{budget}",
        question=f"Which cores carry a cue across {delay} distractors? Without memory it is a guess among four.",
        runs=tuple(
            Run(
                f"{agent}-{core}",
                seed,
                f"runners.control --env recall-{delay} --agent {agent} --core {core} --memory {memory} --steps {steps}"
                " --eval-policy sample --log-seconds 1",
            )
            for seed in seeds
            for agent, core in rows
        ),
        metric="share of right answers",
        bar=0.95,
        diagnostics=("m_step/kl", "m_step/entropy", "e_step/ess_share"),
    )


EXPERIMENTS = (
    recall(10, memory=16, steps=200_000, vmpo=("feedforward", "lstm", "mingru", "gtrxl")),
    recall(30, memory=64, steps=400_000, vmpo=("feedforward", "lstm", "mingru", "trxl-i", "gtrxl")),
    # One seed of five of each LSTM was short of the bar after 400,000 steps: half as many again, on other seeds.
    recall(
        30,
        memory=64,
        steps=600_000,
        vmpo=("lstm",),
        ppo=("lstm",),
        seeds=range(10, 15),
        suffix="_longer",
        budget=", LSTM, 600,000 steps",
    ),
    # Longer than the 64 steps of an unroll, through which gradients pass: the cue is in an earlier one.
    recall(100, memory=128, steps=800_000, vmpo=("lstm", "mingru", "gtrxl"), ppo=("lstm", "gtrxl")),
)
