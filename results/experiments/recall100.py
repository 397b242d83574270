from results.experiments.recall30 import recall

STEPS = 2_000_000

EXPERIMENT = recall(100, STEPS)
