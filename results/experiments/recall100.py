from results.experiments.recall30 import recall

STEPS = 600_000

EXPERIMENT = recall(100, memory=128, steps=STEPS, options=" --learning-rate 3e-4")
