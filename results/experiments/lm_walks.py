from results.experiments.lm_sort import methods

EXPERIMENT = methods("walks", "Language model: shortest paths from random walks", "walks", bar=0.97)
