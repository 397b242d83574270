from results.experiment import Experiment, Run

SEEDS = (0, 1, 2)
CORES = ("gtrxl", "lstm", "feedforward")
POPGYM_SEEDS = range(5)
POPGYM_CORES = (*CORES, "mingru")
POPGYM = ("RepeatPreviousEasy", "RepeatFirstEasy", "CountRecallEasy", "AutoencodeEasy")

MINIGRID = Experiment(
    name="minigrid_memory_s7",
    title="MiniGrid-MemoryS7",
    question="Does an agent learn to look at an object, and to choose one like it at a fork? A guess has 0.5.",
    runs=tuple(
        Run(
            f"vmpo-{core}",
            seed,
            f"runners.control --env MiniGrid-MemoryS7-v0 --agent vmpo --core {core} --steps 2000000 --actors 0"
            " --eval-episodes 200",
        )
        for seed in SEEDS
        for core in CORES
    ),
    bar=0.91,  # 0.95 of the episodes, at 0.96 for one of average length
    diagnostics=("m_step/kl", "m_step/entropy", "value/explained_variance"),
)

POPGYM_EASY = tuple(
    Experiment(
        name=f"popgym_{task.lower()}",
        title=f"POPGym {task}",
        question="Is the return of an agent with a memory above that of one without?",
        runs=tuple(
            Run(
                f"vmpo-{core}",
                seed,
                f"runners.control --env popgym-{task}-v0 --agent vmpo --core {core} --steps 500000 --actors 0"
                " --eval-episodes 200 --eval-policy sample",
            )
            for seed in POPGYM_SEEDS
            for core in POPGYM_CORES
        ),
        diagnostics=("m_step/kl", "m_step/entropy"),
    )
    for task in POPGYM
)

EXPERIMENTS = (MINIGRID, *POPGYM_EASY)
