from results.experiments.lm_rates import rates

EXPERIMENT = rates("lm_rates_walks", "Language model: rates on shortest paths", "walks", bar=0.97)
