"""Making of the learning rule for sequences that a configuration names."""

from agents.ranks import ALONE, Ranks
from agents.sequences.config import SequenceConfig
from agents.sequences.dpo import DPO
from agents.sequences.gempi import SFT, SequenceGempi
from agents.sequences.ppo import SequencePPO


def make_sequence_agent(config: SequenceConfig, ranks: Ranks = ALONE) -> SequenceGempi | SFT | SequencePPO | DPO:
    """Make the learning rule that `config` names, a `SequenceAgent`."""
    return {"sft": SFT, "dpo": DPO, "ppo": SequencePPO}.get(config.method, SequenceGempi)(config, ranks)
