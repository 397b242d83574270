from results.experiments.recall30 import recall

STEPS = 500_000

EXPERIMENT = recall(100, STEPS, "--memory 128 --envs 16 --passes 2 --epsilon-eta 1 --no-anneal")
