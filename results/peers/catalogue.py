"""Tasks of the comparison with peers, and the sides that take part in each."""

from dataclasses import dataclass

OURS = ", GEMPI"
"""End of the name of this project's side where each peer has one of its own beside it."""
PEERS_CNN = "--torso nature --nature-channels 32 64 64 --torso-hidden 512"
"""Flags of runners.atari for the Nature CNN as every peer has it."""


@dataclass(frozen=True)
class Peer:
    """A library, or a style of one, that a module of `drivers/` trains with."""

    name: str
    driver: str
    requirements: tuple[str, ...]
    """Packages to install besides the torch of this project's version."""


@dataclass(frozen=True)
class Side:
    """Flags of a peer's driver or, without a peer, of results.peers.ours."""

    name: str
    flags: str
    peer: Peer | None = None


@dataclass(frozen=True)
class Task:
    """Runs of every side with the seeds 0, 1, ..., each until `bar` or for `seconds` of a core after `warm_up`."""

    title: str
    sides: tuple[Side, ...]
    seeds: int
    seconds: float
    bar: float | None = None
    warm_up: float = 0.0
    """Seconds of the clock from the first mark of a run to that with which its measurement begins."""


CLEANRL_STYLE = Peer("cleanrl-style", "cleanrl_style", ("envpool",))
SB3 = Peer("stable-baselines3", "sb3", ("stable-baselines3", "ale-py", "opencv-python-headless"))
SB3_RECURRENT = Peer("sb3-contrib", "sb3", ("sb3-contrib", "ale-py", "opencv-python-headless"))
SAMPLE_FACTORY = Peer("sample-factory", "sample_factory_appo", ("sample-factory", "envpool"))

OUR_SHAPE, THEIR_SHAPE = "32x32-8x1", "8x128-4x4"
SHAPES = {
    OUR_SHAPE: "--envs 32 --unroll 32 --minibatches 8 --passes 1",
    THEIR_SHAPE: "--envs 8 --unroll 128 --minibatches 4 --passes 4",
}
"""Flags of a batch of `envs` x `unroll` agent steps, learned from in `passes` of `minibatches` gradient steps: this
project's preset, and PPO's on Atari, the default of CleanRL and sample-factory and of stable-baselines3's zoo."""
HIDDEN = 128
PONG = "atari --game Pong --agent vmpo --actors 0"


def theirs(name: str, peer: Peer, core: str, shape: str) -> Side:
    return Side(name, f"--core {core} {SHAPES[shape]} --hidden {HIDDEN}", peer)


def pair(peer: Peer, core: str, shape: str) -> tuple[Side, Side]:
    """Return a peer, and this project with the same network and batch, in one process."""
    name = f"{peer.name}-{core}-{shape}"
    ours = f"{PONG} {PEERS_CNN} --embedding {HIDDEN} --core {core} {SHAPES[shape]} --steps {2**40}"
    ours += " --value-warmup 0"  # its steps would be cheaper than those that follow
    return theirs(name, peer, core, shape), Side(name + OURS, ours)


SPEED = [(CLEANRL_STYLE, "feedforward"), (CLEANRL_STYLE, "lstm"), (SB3, "feedforward"), (SB3_RECURRENT, "lstm")]
SPEED += [(SAMPLE_FACTORY, "feedforward"), (SAMPLE_FACTORY, "lstm")]
TO_CARTPOLE = (
    Side("stable-baselines3, PPO, settings of its zoo", "--env CartPole-v1", SB3),
    *(
        Side(f"GEMPI, {rule}, {core}", f"control --env CartPole-v1 --agent {rule} --core {core}")
        for core in ("feedforward", "lstm", "gtrxl")
        for rule in ("vmpo", "ppo")
    ),
)
TO_PONG = (
    theirs("CleanRL's style, PPO, its defaults", CLEANRL_STYLE, "feedforward", THEIR_SHAPE),
    theirs("stable-baselines3, PPO, settings of its zoo", SB3, "feedforward", THEIR_SHAPE),
    Side("GEMPI, vmpo, gtrxl, its preset", f"{PONG} --core gtrxl"),
    Side("GEMPI, vmpo, gtrxl, the peers' CNN", f"{PONG} --core gtrxl {PEERS_CNN}"),
)
BOTH = tuple(side for of in SPEED for shape in SHAPES for side in pair(*of, shape))
TASKS = {
    "speed": Task("Pong", BOTH, seeds=5, seconds=20.0, warm_up=5.0),
    "cartpole": Task("CartPole-v1", TO_CARTPOLE, seeds=3, seconds=120.0, bar=475.0),
    "pong": Task("Pong", TO_PONG, seeds=3, seconds=7200.0, bar=18.0),
}
