from results.experiments.recall30 import recall

STEPS = 600_000

EXPERIMENT = recall(100, memory=128, steps=STEPS, rate=" --learning-rate 3e-4")
