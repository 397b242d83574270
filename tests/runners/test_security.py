"""Nothing evaluates strings or loads pickles, and nothing listens."""

import os
import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest

from runners.records.checkpoint import CheckpointError, load
from runners.training import AgentTraining
from support import ROOT
from support.runs import small

FORBIDDEN = "|".join(
    [
        r"(?<![\w.])(eval|exec|compile|__import__)\(",
        r"\bimport (pickle|marshal|shelve|dill)",
        r"pickle\.load|yaml\.load\(|os\.system\(",
        r"(?<!safetensors\.)torch\.load\(",
        r"allow_pickle=True|trust_remote_code=True|weights_only=False|shell=True",
    ]
)


def test_no_code_evaluates_strings_or_loads_pickles() -> None:
    sources = [path for room in ("agents", "envs", "networks", "runners") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 90
    for path in sources:
        assert not re.search(FORBIDDEN, path.read_text()), path
    for bad in ("eval(x)", "import pickle", "torch.load(path)", "subprocess.run(x, shell=True)"):
        assert re.search(FORBIDDEN, bad)


class Malice:
    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    malice = Malice()
    malice.path = str(tmp_path / "made by the pickle")
    (tmp_path / "step_000000000001.safetensors").write_bytes(pickle.dumps(malice))
    with pytest.raises(CheckpointError):
        load(tmp_path / "step_000000000001.safetensors")
    assert not Path(malice.path).exists()
    pickle.loads(pickle.dumps(malice))
    assert Path(malice.path).exists(), "it would have done harm"


def listening() -> set[str]:
    """Addresses that this process listens on: state 0A in /proc/net/tcp."""
    own = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # of this listing itself
            own.add(os.readlink(path))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1])
    return found


def test_a_run_listens_nowhere() -> None:
    before = listening()
    training = AgentTraining(small("lstm", actors=1))
    loop = training.run()
    next(loop)
    assert listening() == before
    loop.close()
