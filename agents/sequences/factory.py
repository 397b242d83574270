"""The learning rule that a configuration names."""

from agents.ranks import ALONE, Ranks
from agents.sequences.config import SequenceConfig
from agents.sequences.dpo import DPO
from agents.sequences.gempi import SFT, SequenceGempi
from agents.sequences.ppo import SequencePPO


def make_sequence_agent(config: SequenceConfig, ranks: Ranks = ALONE) -> SequenceGempi | SFT | SequencePPO | DPO:
    """See `SequenceAgent` for what they share."""
    return {"sft": SFT, "dpo": DPO, "ppo": SequencePPO}.get(config.method, SequenceGempi)(config, ranks)
