from results.experiments.recall30 import recall

STEPS = 800_000

# A batch holds whole episodes, of 102 steps.
EXPERIMENT = recall(100, memory=128, steps=STEPS, options=" --unroll 128 --learning-rate 3e-4 --no-anneal")
