from results.experiments.lm_rates import rates

EXPERIMENT = rates("lm_rates_sort_weak", "Language model: rates from a weak base", "sort-weak")
