from results.experiments.divergences_cartpole import divergences

EXPERIMENT = divergences("acrobot", "Acrobot-v1", "--env Acrobot-v1 --core feedforward --steps 300000", bar=-100)
