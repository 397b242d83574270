"""Command lines, actor and learner processes, checkpoints, logs, evaluation; the algebra of methods is in agents/."""
