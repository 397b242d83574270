from results.experiments.lm_sort import methods

EXPERIMENT = methods("sort_weak", "Language model: sort eight digits, from a weak base", "sort-weak")
