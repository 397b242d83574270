from results.experiments.divergences_cartpole import divergences

EXPERIMENT = divergences(
    "recall10",
    "recall after 10 steps",
    "--env recall-10 --core lstm --steps 200000 --eval-policy sample",
    bar=0.95,
    metric="share of right answers",
)
