"""Task of shortest paths: the prompt is a node of a directed graph, the completion a walk to the goal.

The base model is trained on random walks. A walk along edges that reaches the goal in n steps, where s is the fewest
possible from its start, has the reward (L - n) / (L - s), with L = 10 the longest allowed; any other walk has 0.
"""

from collections.abc import Sequence

import numpy as np

from runners.lm.tasks.task import Demonstration, Task

NODES, LONGEST, EDGE_SHARE, GRAPH_SEED = 21, 10, 0.1, 1
NAMES = "abcdefghijklmnopqrstu"
GOAL = 0


def _graph() -> np.ndarray:
    """Return edges from row to column, [NODES, NODES] bool: at least one from every node but the goal, which has
    none."""
    rng = np.random.default_rng(GRAPH_SEED)
    while True:
        edges = rng.random((NODES, NODES)) < EDGE_SHARE
        np.fill_diagonal(edges, False)
        edges[GOAL] = False
        if edges[1:].any(1).all():
            return edges


def _fewest(edges: np.ndarray) -> np.ndarray:
    """Return the fewest steps to the goal, [NODES]; LONGEST + 1 where there is no path that short."""
    steps = np.full(NODES, LONGEST + 1)
    steps[GOAL] = 0
    for _ in range(LONGEST):
        steps = np.minimum(steps, 1 + np.where(edges, steps, LONGEST).min(1))
    return steps


EDGES = _graph()
FEWEST = _fewest(EDGES)
STARTS = np.flatnonzero((FEWEST > 0) & (FEWEST < LONGEST))


def prompts(count: int, rng: np.random.Generator) -> list[str]:
    return [NAMES[node] for node in rng.choice(STARTS, size=count)]


def demonstrations(count: int, rng: np.random.Generator) -> list[Demonstration]:
    """Draw random walks that end at the goal or after LONGEST steps."""
    pairs = []
    for prompt in prompts(count, rng):
        node, walk = NAMES.index(prompt), ""
        while node != GOAL and len(walk) < LONGEST:
            node = rng.choice(np.flatnonzero(EDGES[node]))
            walk += NAMES[node]
        pairs.append((prompt, walk))
    return pairs


def optimality(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Return the reward of each walk, as the module describes it."""
    return [_optimality(prompt, walk) for prompt, walk in zip(prompts, completions, strict=True)]


def _optimality(prompt: str, walk: str) -> float:
    nodes = [NAMES.find(name) for name in prompt + walk]
    along = min(nodes) >= 0 and all(EDGES[a, b] for a, b in zip(nodes, nodes[1:], strict=False))
    if not along or nodes[-1] != GOAL or len(walk) > LONGEST:
        return 0.0
    return float((LONGEST - len(walk)) / (LONGEST - FEWEST[nodes[0]]))


TASK = Task(
    alphabet=NAMES,
    prompts=prompts,
    demonstrations=demonstrations,
    reward=optimality,
    completion_length=LONGEST + 1,
    base_steps=300,
    base_demonstrations=2000,
)
