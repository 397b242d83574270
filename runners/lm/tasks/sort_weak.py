"""Sort eight digits, from a base model that has seen right answers alone, and too few steps of them."""

from dataclasses import replace
from functools import partial

from runners.lm.tasks import sort

TASK = replace(sort.TASK, demonstrations=partial(sort.demonstrations, wrong=0.0), base_steps=100)
