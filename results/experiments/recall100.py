from results.experiments.recall30 import recall

STEPS = 1_000_000

EXPERIMENT = recall(100, memory=128, steps=STEPS)
