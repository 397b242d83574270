"""Command lines, actor and learner processes, checkpoints, logging, evaluation. The algebra of methods lives in agents/."""
