from results.experiments.temperature_cartpole import temperature

EXPERIMENT = temperature(
    "recall10",
    "recall after 10 steps",
    "--env recall-10 --core lstm --steps 200000 --eval-policy sample",
    bar=0.95,
    metric="share of right answers",
)
