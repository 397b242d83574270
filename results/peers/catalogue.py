"""Peers, and for each comparison with them the network and the batch that both sides have."""

from dataclasses import dataclass

GAME = "Pong"
PEERS_CNN = "--torso nature --nature-channels 32 64 64 --torso-hidden 512"
"""Flags of runners.atari for the Nature CNN as every peer has it."""
HIDDEN = 128
FOR_EVER = 2**40


@dataclass(frozen=True)
class Peer:
    """A library, or a style of one, that a file of `drivers/` trains with."""

    name: str
    driver: str
    requirements: tuple[str, ...]
    """Packages to install besides the torch of this project's version."""


@dataclass(frozen=True)
class Comparison:
    """A batch is `envs` x `unroll` agent steps, learned from in `passes` of `minibatches` gradient steps each."""

    peer: Peer
    core: str
    envs: int
    unroll: int
    minibatches: int
    passes: int

    @property
    def name(self) -> str:
        return f"{self.peer.name}-{self.core}-{self.envs}x{self.unroll}-{self.minibatches}x{self.passes}"

    @property
    def shared_flags(self) -> list[str]:
        """Flags that drivers and runners.atari call alike."""
        sizes = {name: getattr(self, name) for name in ("envs", "unroll", "minibatches", "passes")}
        return ["--core", self.core, *(part for name, size in sizes.items() for part in (f"--{name}", str(size)))]

    @property
    def peer_flags(self) -> list[str]:
        return [*self.shared_flags, "--hidden", str(HIDDEN)]

    @property
    def our_flags(self) -> list[str]:
        """Flags of runners.atari: the preset but for the shape of the batch, in one process."""
        fixed = f"--game {GAME} --agent vmpo {PEERS_CNN} --embedding {HIDDEN} --actors 0 --steps {FOR_EVER}"
        fixed += " --value-warmup 0"  # its steps would be cheaper than those that follow
        return [*fixed.split(), *self.shared_flags]


CLEANRL_STYLE = Peer("cleanrl-style", "cleanrl_style.py", ("envpool",))
SB3 = Peer("stable-baselines3", "sb3_pong.py", ("stable-baselines3", "ale-py", "opencv-python-headless"))
SB3_RECURRENT = Peer("sb3-contrib", "sb3_pong.py", ("sb3-contrib", "ale-py", "opencv-python-headless"))
SAMPLE_FACTORY = Peer("sample-factory", "sample_factory_appo.py", ("sample-factory", "envpool"))
PEERS = {peer.name: peer for peer in (CLEANRL_STYLE, SB3, SB3_RECURRENT, SAMPLE_FACTORY)}

OUR_SHAPE = {"envs": 32, "unroll": 32, "minibatches": 8, "passes": 1}
"""This project's preset."""
THEIR_SHAPE = {"envs": 8, "unroll": 128, "minibatches": 4, "passes": 4}
"""PPO's shape on Atari: the default of CleanRL and sample-factory, and what stable-baselines3's zoo takes."""

COMPARISONS = tuple(
    Comparison(peer, core, **shape)
    for peer, cores in (
        (CLEANRL_STYLE, ("feedforward", "lstm")),
        (SB3, ("feedforward",)),
        (SB3_RECURRENT, ("lstm",)),
        (SAMPLE_FACTORY, ("feedforward", "lstm")),
    )
    for core in cores
    for shape in (OUR_SHAPE, THEIR_SHAPE)
)
