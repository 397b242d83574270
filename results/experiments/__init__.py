"""Experiments, a file a family, in its tuple `EXPERIMENTS`. Below are the tasks that several families share."""

RECALL10 = {
    "task": "--env recall-10 --core lstm --steps 200000 --eval-policy sample",
    "bar": 0.95,
    "metric": "share of right answers",
}
"""Options of a family's function; the title is each family's own."""
CARTPOLE = {"task": "--env CartPole-v1 --core feedforward --steps 300000", "bar": 475}
