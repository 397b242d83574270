from results.experiment import Experiment, Run

PONG = "runners.atari --game Pong --eval-episodes 30"
RUNS = {
    f"{agent}-{core}": (f"{PONG} --agent {agent} --core {core}", seeds)
    for agent, seeds in (("vmpo", (1, 2, 3)), ("ppo", (1, 2)))
    for core in ("gtrxl", "lstm")
}

EXPERIMENT = Experiment(
    name="pong",
    title="Pong from pixels",
    question="How far do V-MPO and PPO get on two cores by the preset, with a GTrXL and with an LSTM?",
    runs=tuple(Run(label, seed, command) for label, (command, seeds) in RUNS.items() for seed in seeds),
    cores=2,
    bar=18,
)
