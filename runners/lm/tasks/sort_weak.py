"""Task of sorting eight digits, from a base model that is trained on right answers, but for too few steps."""

from dataclasses import replace
from functools import partial

from runners.lm.tasks import sort

TASK = replace(sort.TASK, demonstrations=partial(sort.demonstrations, wrong=0.0), base_steps=100)
