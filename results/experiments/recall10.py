from results.experiments.recall30 import recall

EXPERIMENT = recall(10, memory=16, steps=200_000, cores=("feedforward", "lstm", "gtrxl"))
