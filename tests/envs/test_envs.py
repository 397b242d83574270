"""One contract over every backend, held against plain ale, plain gymnasium, and sums taken anew.

A rollout is recorded once and every claim is checked on it; oracles know nothing of our accounting.
"""

import functools
import importlib.util
from dataclasses import replace

import ale_py
import ale_py.roms
import gymnasium
import numpy as np
import pytest

from envs.backend import BackendEnv, RawStep
from envs.config import EnvConfig
from envs.factory import known_names, make_env
from envs.interface import Action, Box, Discrete, EnvError, EnvSpec, MultiDiscrete, Part, TimeStep
from support.envs_for_tests import ACTIONS, OBSERVATIONS

PONG = EnvConfig("Pong", max_episode_frames=800)
CASES = {
    "envpool-Pong": PONG,
    "ale-Pong": EnvConfig("Pong", backend="ale", max_episode_frames=800),
    "envpool-CartPole": EnvConfig("CartPole-v1", "control"),
    "gymnasium-CartPole": EnvConfig("CartPole-v1", "control", "gymnasium"),
    "envpool-Pendulum": EnvConfig("Pendulum-v1", "control"),
    "gymnasium-Pendulum": EnvConfig("Pendulum-v1", "control", "gymnasium"),
    "recall": EnvConfig("recall-5", "control"),
    "numpad": EnvConfig("numpad-3", "control"),
    "envpool-MiniGrid": EnvConfig("MiniGrid-Empty-Random-5x5-v0", "control", max_episode_steps=40),
    "gymnasium-MiniGrid": EnvConfig("MiniGrid-Empty-Random-5x5-v0", "control", "gymnasium", max_episode_steps=40),
    "envpool-dm_control": EnvConfig("CartpoleBalance-v1", "control", max_episode_steps=40),
    "popgym": EnvConfig("popgym-RepeatPreviousEasy-v0", "control"),
    **{
        name: EnvConfig(f"support.envs_for_tests:{name}-v0", "control")
        for name in [f"Tiny-{observation}-discrete" for observation in OBSERVATIONS]
        + [f"Tiny-vector-{action}" for action in ACTIONS if action not in ("discrete", "unbounded")]
        + [f"Masked-{mask}-{observation}" for mask in ("part", "info") for observation in ("vector", "dict")]
    },
}
FEW_SIGHTS = ("envpool-MiniGrid", "gymnasium-MiniGrid", "popgym", "numpad")
"""Where a first observation may look as a last one does."""
NO_PICTURES = ("envpool-dm_control", "popgym")
NEEDS = {"gymnasium-MiniGrid": "minigrid", "popgym": "popgym"}
ATARI = [name for name in CASES if name.endswith("Pong")]
CONTROL = [name for name in CASES if name.endswith(("CartPole", "Pendulum"))]


def _installed(case: str) -> bool:
    return case not in NEEDS or importlib.util.find_spec(NEEDS[case]) is not None


def param(case: str):
    return pytest.param(case, marks=pytest.mark.skipif(not _installed(case), reason="needs the extra memory"))


every = pytest.mark.parametrize("case", [param(case) for case in CASES])
atari = pytest.mark.parametrize("case", ATARI)
ENVS = 3
STEPS = 430


def actions_of(action: Action, steps: int, num_envs: int, seed: int = 0) -> np.ndarray:
    """Random valid actions [steps, N, ...]."""
    rng = np.random.default_rng(seed)
    return np.stack([action.sample(rng, num_envs) for _ in range(steps)])


def play(
    config: EnvConfig, actions: np.ndarray | int, num_envs: int = ENVS, seed: int = 7, threads: int = 1
) -> TimeStep:
    """The reset and every step after it, each field [1 + steps, N, ...]."""
    env = make_env(config, num_envs, seed, threads)
    if isinstance(actions, int):
        actions = actions_of(env.spec.action, actions, num_envs)
    steps = [env.reset(), *(env.step(action) for action in actions)]
    env.close()
    return TimeStep(*map(np.stack, zip(*steps, strict=True)))


@functools.cache
def rollout(case: str) -> TimeStep:
    return play(CASES[case], STEPS)


def ended(steps: TimeStep) -> np.ndarray:
    return steps.terminated | steps.truncated


def same(a: TimeStep, b: TimeStep) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


# The contract


@every
def test_types_and_shapes(case):
    env = make_env(CASES[case], ENVS, 0)
    spec, steps = env.spec, rollout(case)
    env.close()
    time = (1 + STEPS, ENVS)
    assert (env.num_envs, spec.name) == (ENVS, CASES[case].name)
    assert spec.observation_dtype in ("uint8", "float32")
    assert spec.frames_per_step == (4 if case in ATARI else 1)
    assert steps.observation.dtype == spec.observation_dtype
    assert steps.observation.shape == (*time, *spec.observation_shape)
    kinds = ("float32", "bool", "bool", "bool", "float64", "int64")
    assert tuple(x.dtype.name for x in steps[1:]) == kinds
    assert all(x.shape == time for x in steps[1:])


@every
def test_reset_steps_follow_ends_and_carry_nothing(case):
    steps = rollout(case)
    assert steps.first[0].all() and not ended(steps)[0].any()
    assert np.array_equal(steps.first[1:], ended(steps)[:-1])
    assert not steps.reward[steps.first].any()
    assert not (steps.terminated & steps.truncated).any()
    assert (ended(steps)[1:].sum(0) >= 2).all(), "every environment must end twice for this to mean anything"
    if case in FEW_SIGHTS:
        return
    fresh = steps.observation[1:][steps.first[1:]]
    last = steps.observation[ended(steps)]
    assert not any(np.array_equal(a, b) for a in fresh for b in last)


@every
def test_returns_and_lengths_are_the_sums(case):
    steps = rollout(case)
    assert np.abs(steps.reward).sum() > 0
    for i in range(ENVS):
        total, length = 0.0, 0
        for t in range(1 + STEPS):
            total, length = (0.0, 0) if steps.first[t, i] else (total + float(steps.reward[t, i]), length + 1)
            waited = case == "recall" and steps.truncated[t, i]  # for its turn: no episode
            if ended(steps)[t, i] and not waited:
                assert steps.episode_return[t, i] == pytest.approx(total, rel=1e-5)
                assert steps.episode_length[t, i] == length
            else:
                assert np.isnan(steps.episode_return[t, i])
                assert steps.episode_length[t, i] == 0


@every
def test_scaled_rewards_leave_raw_returns(case):
    plain, scaled = rollout(case), play(replace(CASES[case], reward_scale=0.5), STEPS)
    np.testing.assert_array_equal(scaled.reward, plain.reward / 2)
    assert same(scaled._replace(reward=plain.reward), plain)


@every
def test_the_action_of_a_reset_step_is_ignored(case):
    env = make_env(CASES[case], ENVS, 7)
    action = env.spec.action
    env.close()
    actions = actions_of(action, STEPS, ENVS)
    ignored = ended(rollout(case))[:-1]
    others = actions_of(action, STEPS, ENVS, seed=1)
    assert (actions != others).reshape(STEPS, ENVS, -1).any(-1)[ignored].any()
    mixed = np.where(ignored.reshape(ignored.shape + (1,) * (actions.ndim - 2)), others, actions)
    assert same(play(CASES[case], mixed), rollout(case))
    assert not same(play(CASES[case], others), rollout(case)), "actions elsewhere must matter"


@every
def test_a_seed_gives_a_trajectory_of_its_own(case):
    config = CASES[case]
    if case in ATARI:  # without chance in the game there are only 30 trajectories, one for each number of no-ops
        config = EnvConfig(config.name, backend=config.backend, sticky_actions=0.25)
    actions = np.repeat(actions_of(make_env(config, 1, 0).spec.action, 60, 1), ENVS, axis=1)
    runs = [play(config, actions, seed=seed) for seed in (7, 7, 8)]
    assert same(runs[0], runs[1])
    each = [run.observation[:, i].tobytes() for run in (runs[0], runs[2]) for i in range(ENVS)]
    assert len(set(each)) == 2 * ENVS, "no environment repeats another, of its own seed or of the next"


@every
def test_threads_change_nothing(case):
    assert same(play(CASES[case], 80, threads=2), TimeStep(*(x[:81] for x in rollout(case))))


@every
def test_split_phase(case):
    env = make_env(CASES[case], ENVS, 7)
    actions = actions_of(env.spec.action, STEPS, ENVS)
    with pytest.raises(EnvError, match="send comes after reset"):
        env.send(actions[0])
    env.reset()
    with pytest.raises(EnvError, match="reset is called once"):
        env.reset()
    with pytest.raises(EnvError, match="recv comes after send"):
        env.recv()
    for t in range(3):
        env.send(actions[t])
        with pytest.raises(EnvError, match="after recv"):
            env.send(actions[t])
        assert same(env.recv(), TimeStep(*(x[t + 1] for x in rollout(case))))
    env.close()
    env.close()
    with pytest.raises(EnvError, match="closed"):
        env.send(actions[0])


@every
def test_an_environment_may_stand_still(case):
    """From step 30 on the second does: nothing changes for the others."""
    env = make_env(CASES[case], ENVS, 7)
    actions, expected = actions_of(env.spec.action, STEPS, ENVS), rollout(case)
    env.reset()
    for t in range(120):
        playing = np.array([True, t < 30, True])
        step = env.step(actions[t], playing)
        here = TimeStep(*(x[t + 1] for x in expected))
        assert same(TimeStep(*(x[playing] for x in step)), TimeStep(*(x[playing] for x in here)))
        if t >= 30:
            assert np.array_equal(step.observation[1], expected.observation[30, 1])
            assert step.reward[1] == 0 and not (step.first | step.terminated | step.truncated)[1]
            assert np.isnan(step.episode_return[1]) and step.episode_length[1] == 0
    with pytest.raises(EnvError, match="one at least True"):
        env.send(actions[0], np.zeros(ENVS, bool))
    with pytest.raises(EnvError, match="3 booleans"):
        env.send(actions[0], np.ones(ENVS + 1, bool))
    env.close()


@pytest.mark.parametrize("case", [param(case) for case in CASES if case not in ("ale-Pong", "recall", "numpad")])
def test_environments_go_on_where_they_stood_still(case):
    """Left out: recall and numpad draw numbers for all at once, and ale steps all."""
    env = make_env(CASES[case], ENVS, 7, threads=2)
    actions, expected = actions_of(env.spec.action, STEPS, ENVS), rollout(case)
    env.reset()
    rng, done = np.random.default_rng(1), np.zeros(ENVS, int)
    while done.max() < 200:
        playing = rng.random(ENVS) < 0.6
        if playing.any():
            step = env.step(np.stack([actions[t, i] for i, t in enumerate(done)]), playing)
            done += playing
            for i in np.flatnonzero(playing):
                assert same(TimeStep(*(x[i] for x in step)), TimeStep(*(x[done[i], i] for x in expected)))
    env.close()


def test_games_may_stand_still():
    """Also all environments of one of several games."""
    config = EnvConfig("Pong,Breakout", max_episode_frames=80)
    actions = actions_of(Discrete(18), 50, 4)
    expected = play(config, actions, num_envs=4)
    env = make_env(config, 4, 7)
    env.reset()
    playing = np.array([False, True, False, False])
    for t, action in enumerate(actions):
        step = env.step(action, playing if t >= 15 else None)
        assert same(TimeStep(*(x[1] for x in step)), TimeStep(*(x[t + 1, 1] for x in expected)))
        if t >= 15:
            assert np.array_equal(step.observation[~playing], expected.observation[15, ~playing])
            assert (
                not (step.first | step.terminated | step.truncated)[~playing].any() and not step.reward[~playing].any()
            )
            assert np.isnan(step.episode_return[~playing]).all()
    env.close()


@every
def test_wrong_actions_are_refused_and_do_no_harm(case):
    env = make_env(CASES[case], ENVS, 7)
    good = actions_of(env.spec.action, 1, ENVS)[0]
    env.reset()
    if isinstance(env.spec.action, Discrete):
        wrong = [good + env.spec.action.n, good - 1000, good * 1_000_000 + 9, good.astype(np.float32), good[:, None]]
    elif isinstance(env.spec.action, MultiDiscrete):
        wrong = [good + 3, good - 4, good.astype(np.float32), good[:, 0]]
    else:
        wrong = [
            np.full_like(good, np.nan),
            np.full_like(good, np.inf),
            good.astype(np.int64),
            good[:, 0],
            good[..., None],
        ]
    for action in [*wrong, good[:-1], np.concatenate([good, good])]:
        with pytest.raises(EnvError, match="actions must") as error:
            env.send(action)
        assert "\n" not in str(error.value)
    assert same(env.step(good), TimeStep(*(x[1] for x in rollout(case))))
    env.close()


@every
def test_pictures(case):
    env = make_env(CASES[case], ENVS, 7)
    env.reset()
    with pytest.raises(EnvError, match="render=True"):
        env.render()
    env.close()
    if case in NO_PICTURES:
        with pytest.raises(EnvError, match="draw"):
            make_env(CASES[case], ENVS, 7, render=True)
        return
    env = make_env(CASES[case], ENVS, 7, render=True)
    env.reset()
    if CASES[case].backend == "gymnasium" and importlib.util.find_spec("pygame") is None:
        with pytest.raises(EnvError, match="pygame"):
            env.render()
        return
    before = env.render().copy()
    for action in actions_of(env.spec.action, 40, ENVS):
        env.step(action)
    after = env.render()
    env.close()
    assert before.dtype == np.uint8 and before.shape == after.shape == (ENVS, *before.shape[1:3], 3)
    assert before.std() > 1 and not np.array_equal(before, after)


# True last observations and dynamics, against one plain environment


def next_step(plain: gymnasium.Env, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """One step of plain gymnasium from the state that `observation` shows."""
    plain.reset()
    if plain.spec.id == "CartPole-v1":
        plain.unwrapped.state = observation.astype(np.float64)
        plain.unwrapped.steps_beyond_terminated = None
    else:
        cosine, sine, velocity = observation.astype(np.float64)
        plain.unwrapped.state = np.array([np.arctan2(sine, cosine), velocity])
        action = 2 * action  # torque in [-2, 2]
    observation, reward, terminated, _, _ = plain.step(action)
    return observation, float(reward), terminated


@pytest.mark.parametrize("case", CONTROL)
def test_every_transition_is_gymnasiums(case):
    steps, plain = rollout(case), gymnasium.make(CASES[case].name)
    env = make_env(CASES[case], ENVS, 7)
    actions = actions_of(env.spec.action, STEPS, ENVS)
    env.close()
    ends = 0
    for t, i in np.argwhere(~steps.first[1:]):
        observation, reward, terminated = next_step(plain, steps.observation[t, i], actions[t, i])
        np.testing.assert_allclose(steps.observation[t + 1, i], observation, atol=2e-4)
        assert steps.reward[t + 1, i] == pytest.approx(reward, abs=2e-3)
        assert steps.terminated[t + 1, i] == terminated
        ends += ended(steps)[t + 1, i]
    assert ends >= 2 * ENVS


@pytest.mark.parametrize("case", ["envpool-CartPole", "gymnasium-CartPole"])
def test_cartpole_last_observation_is_beyond_the_threshold(case):
    steps = rollout(case)
    x, _, angle, _ = np.moveaxis(steps.observation, -1, 0)
    fallen = (np.abs(x) > 2.4) | (np.abs(angle) > np.deg2rad(12))
    assert np.array_equal(fallen, steps.terminated)
    assert (np.abs(steps.observation[steps.first]) <= 0.05).all()


@pytest.mark.parametrize("case", ["envpool-CartPole", "gymnasium-CartPole"])
def test_a_balanced_pole_is_truncated_at_500(case):
    env = make_env(CASES[case], ENVS, 7)
    step = env.reset()
    for t in range(500):
        assert not step.truncated.any() and not step.terminated.any(), t
        step = env.step((step.observation @ np.array([0.1, 0.3, 3.0, 1.0]) > 0).astype(np.int64))
    assert env.spec.max_episode_steps == 500
    assert step.truncated.all() and not step.terminated.any() and (np.abs(step.observation[:, 2]) < 0.2).all()
    assert (step.episode_return == 500).all() and (step.episode_length == 500).all()
    env.close()


@pytest.mark.parametrize("case", ["envpool-Pendulum", "gymnasium-Pendulum"])
def test_pendulum_is_only_ever_truncated(case):
    steps = rollout(case)
    assert np.array_equal(np.flatnonzero(steps.truncated.all(1)), [200, 401]) and not steps.terminated.any()
    assert (steps.episode_length[200] == 200).all()


def test_actions_outside_the_cube_are_clipped():
    wild = np.array([[-7, 0.5], [0.25, 1e30]], np.float64)
    tame = Box((2,)).validate(wild, 2)
    assert tame.dtype == np.float32 and np.array_equal(tame, [[-1, 0.5], [0.25, 1]]) and wild[0, 0] == -7


# Atari


def area(size: int, to: int) -> np.ndarray:
    """[to, size] overlaps of area interpolation."""
    edges = np.linspace(0, size, to + 1)
    cells = np.arange(size)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return overlap.clip(0) / (size / to)


class PlainPong:
    """The papers' preprocessing over a single emulator, from the text: repeat 4, maximum of 2, grey, 84x84."""

    def __init__(self, noops: int, fire_first: bool):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path("pong"))
        self.actions = self.ale.getMinimalActionSet()
        presses = [0] * noops
        for press in [1, *presses] if fire_first else [*presses, 1]:
            self.ale.act(press)
        self.rows, self.columns = area(210, 84), area(160, 84)

    def frame(self) -> np.ndarray:
        return self.ale.getScreenGrayscale()

    def small(self, frame: np.ndarray) -> np.ndarray:
        return self.rows @ frame @ self.columns.T

    def step(self, action: int) -> tuple[np.ndarray, float]:
        reward, frames = 0.0, []
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            frames.append(self.frame())
        return self.small(np.maximum(frames[-2], frames[-1])), reward


@atari
def test_pong_is_the_emulator_preprocessed(case):
    steps = rollout(case)
    actions = actions_of(Discrete(6), STEPS, ENVS)[:, 0]
    fire_first = CASES[case].backend == "ale"

    def start(noops: int) -> tuple[float, PlainPong]:
        plain = PlainPong(noops, fire_first)
        return np.abs(plain.small(plain.frame()) - steps.observation[0, 0, -1]).max(), plain

    # Several numbers of no-ops may show the same first screen: follow each.
    plains = [plain for error, plain in map(start, range(30)) if error <= 1]
    assert plains

    def follows(plain: PlainPong) -> bool:
        for t in range(120):
            frame, reward = plain.step(actions[t])
            if np.abs(frame - steps.observation[t + 1, 0, -1]).max() > 1 or reward != steps.reward[t + 1, 0]:
                return False
        return True

    assert sum(map(follows, plains)) >= 1
    stack, newest = steps.observation[4:200, 0], steps.observation[:, 0, -1]
    for age in range(4):
        assert np.array_equal(stack[:, -1 - age], newest[4 - age : 200 - age])


@atari
def test_pong_time_limit_truncates_with_the_true_last_observation(case):
    limited, config = rollout(case), CASES[case]
    free = play(EnvConfig("Pong", backend=config.backend), STEPS)
    assert np.array_equal(np.flatnonzero(limited.truncated.all(1)), [200, 401]) and not limited.terminated.any()
    assert (limited.episode_length[200] == 200).all()
    assert not ended(free).any()
    assert np.array_equal(limited.observation[:200], free.observation[:200])
    a, b = limited.observation[200], free.observation[200]
    assert np.array_equal(a[:, :3], b[:, :3])
    # ale blends an older frame into the newest where an episode ends: the score and field agree, a few pixels do not.
    assert (a[:, 3] != b[:, 3]).mean() <= (0.01 if config.backend == "ale" else 0)
    # A reset would show a new game: the stack, at least, would not be the one before, moved by a frame.
    assert not np.array_equal(limited.observation[201, :, :3], limited.observation[200, :, 1:])


@atari
def test_pong_is_played_to_the_end_of_the_game(case):
    steps = play(EnvConfig("Pong", backend=CASES[case].backend), 1300, num_envs=1)
    ends = np.argwhere(ended(steps))
    assert len(ends) >= 1 and not steps.truncated.any()
    t, i = ends[0]
    assert steps.terminated[t, i] and steps.episode_length[t, i] == t
    assert steps.episode_return[t, i] == steps.reward[: t + 1, i].sum() and -21 <= steps.episode_return[t, i] <= -15
    assert (steps.reward[: t + 1, i] == -1).sum() == 21


@atari
def test_rewards_are_not_clipped(case):
    steps = play(EnvConfig("MsPacman", backend=CASES[case].backend), 120)
    assert set(np.unique(steps.reward)) <= {0.0, 10.0, 20.0, 50.0, 60.0} and steps.reward.max() >= 10


@atari
def test_noops_and_sticky_actions_are_the_only_chance(case):
    backend, n = CASES[case].backend, 4
    actions = np.repeat(actions_of(Discrete(6), 60, 1), n, axis=1)

    def distinct(**options) -> tuple[int, int]:
        steps = play(EnvConfig("Pong", backend=backend, **options), actions, num_envs=n)
        return len({x.tobytes() for x in steps.observation[0]}), len(
            {steps.observation[:, i].tobytes() for i in range(n)}
        )

    assert distinct(noop_max=0) == (1, 1)
    assert distinct(noop_max=0, sticky_actions=0.25) == (1, n)
    assert distinct(noop_max=30)[1] >= 2


@atari
@pytest.mark.parametrize("stack", [1, 3])
def test_an_observation_holds_the_last_pictures(case, stack):
    """Of a stack of 4 the newest ones, whatever the stack."""
    backend, actions = CASES[case].backend, actions_of(Discrete(6), 40, 2)
    whole, part = (play(EnvConfig("Pong", backend=backend, frame_stack=n), actions, num_envs=2) for n in (4, stack))
    assert part.observation.shape[2] == stack
    assert np.array_equal(part.observation, whole.observation[:, :, 4 - stack :])


def test_evaluations_may_have_another_stickiness():
    config = EnvConfig(sticky_actions=0.1)
    assert config.evaluated.sticky_actions == 0.1
    assert EnvConfig(sticky_actions=0.1, eval_sticky_actions=0.0).evaluated.sticky_actions == 0
    assert EnvConfig(eval_sticky_actions=0.25).evaluated.sticky_actions == 0.25


def test_a_lost_life_ends_an_episode_but_not_the_game():
    actions = actions_of(Discrete(4), 900, 2)
    steps = play(EnvConfig("Breakout", episodic_life=True), actions, num_envs=2)
    assert np.array_equal(steps.first[1:], ended(steps)[:-1]) and not steps.reward[steps.first].any()
    assert steps.reward.sum() > 0 and not steps.truncated.any()
    for i in range(2):
        games = np.flatnonzero(~np.isnan(steps.episode_return[:, i]))
        assert len(games) >= 2
        begin = 0
        for end in games:
            game = slice(begin, end + 1)
            assert steps.terminated[game, i].sum() == 5, "Breakout has five lives"
            assert steps.episode_return[end, i] == steps.reward[game, i].sum()
            assert steps.episode_length[end, i] == (~steps.first[game, i]).sum()
            begin = end + 1
    # The learner's episodes are shorter than the game: without the option only the game ends.
    whole = play(EnvConfig("Breakout"), actions, num_envs=2)
    assert np.array_equal(whole.terminated, ~np.isnan(whole.episode_return)) and whole.terminated.any()


def test_a_game_lost_in_the_noops_after_a_life_leaks_nothing_into_the_next():
    """Enough no-ops to lose all lives in them: the old game is reported on the reset step where it was found over."""
    steps = play(EnvConfig("SpaceInvaders", episodic_life=True, noop_max=1500), 300, num_envs=4)
    reported = ~np.isnan(steps.episode_return)
    found = reported & steps.first
    assert (steps.episode_return[found] > 0).any() and (reported & ended(steps)).any()
    for i in range(4):
        begin = 0
        for end in np.flatnonzero(reported[:, i]):
            game = slice(begin, end + 1)
            assert steps.episode_return[end, i] == steps.reward[game, i].sum()
            assert steps.episode_length[end, i] == (~steps.first[game, i]).sum()
            begin = end + 1


def test_a_game_over_on_the_last_step_allowed_is_no_truncation():
    free = play(EnvConfig("Breakout"), 400, num_envs=1)
    (over, *_) = np.flatnonzero(free.terminated[:, 0])
    limited = play(EnvConfig("Breakout", max_episode_frames=4 * int(over)), 400, num_envs=1)
    assert limited.terminated[over, 0] and not limited.truncated[over, 0]
    earlier = play(EnvConfig("Breakout", max_episode_frames=4 * int(over) - 4), 400, num_envs=1)
    assert earlier.truncated[over - 1, 0] and not earlier.terminated[over - 1, 0]


@atari
def test_both_atari_backends_have_the_same_spec(case):
    env = make_env(EnvConfig("Pong", backend=CASES[case].backend), 1, 0)
    assert (env.spec.observation_shape, env.spec.action) == ((4, 84, 84), Discrete(6))
    assert (env.spec.frames_per_step, env.spec.max_episode_steps) == (4, 27_000)
    env.close()


# Recall


def recall(delay: int, answer, num_envs: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """The first episode of each environment: observations [N + 3, num_envs, 9] and rewards.

    `answer(cue, t)` acts, `t` [num_envs] counted from the cue on. Environment i awaits it for i (N + 3) / num_envs
    blank steps, which are cut short and count as no episode.
    """
    env = make_env(EnvConfig(f"recall-{delay}", "control"), num_envs, 3)
    waits = np.arange(num_envs) * (delay + 3) // num_envs
    waits[waits == 1] = 0
    cue = np.zeros(num_envs, np.int64)
    steps = [env.reset()]
    for t in range(2 * delay + 4):
        shown = (t == waits) | (t == waits + delay + 3)
        assert np.array_equal(shown, steps[-1].observation[:, :4].any(1))
        assert np.array_equal(steps[-1].first, shown | (t == 0))
        assert np.array_equal(steps[-1].terminated, t == waits + delay + 2)
        assert np.array_equal(steps[-1].truncated, (waits > 0) & (t == waits - 1))
        cue = np.where(shown, steps[-1].observation[:, :4].argmax(1), cue)
        steps.append(env.step(answer(cue, t - waits)))
    every = TimeStep(*map(np.stack, zip(*steps, strict=True)))
    assert not every.observation[np.arange(len(steps))[:, None] < waits].any()
    envs, rows = np.arange(num_envs), waits + np.arange(delay + 3)[:, None]
    ends = np.argwhere(~np.isnan(every.episode_return.T))
    assert np.array_equal(ends[np.unique(ends[:, 0], return_index=True)[1], 1], waits + delay + 2)
    assert (every.episode_length[rows[-1], envs] == delay + 2).all()
    assert np.array_equal(every.episode_return[rows[-1], envs], every.reward[rows[-1], envs])
    return every.observation[rows, envs], every.reward[rows, envs]


def test_recall_pays_the_right_answer_at_go_and_nothing_else():
    for delay in (1, 2, 30):
        _, right = recall(delay, lambda cue, t, go=delay + 1: np.where(t == go, cue, (cue + 1) % 4))
        assert right[-1].all() and not right[:-1].any()
        _, wrong = recall(delay, lambda cue, t, go=delay + 1: np.where(t == go, (cue + 1) % 4, cue))
        assert not wrong.any()
    _, guess = recall(5, lambda cue, t: np.zeros_like(cue))
    assert guess[-1].mean() == pytest.approx(0.25, abs=0.035)  # 5 standard errors


def test_recall_shows_the_cue_once():
    delay = 20
    observations, _ = recall(delay, lambda cue, t: np.zeros_like(cue))
    first, distractors, go, last = np.split(observations, [1, delay + 1, delay + 2])
    cue = first[0, :, :4].argmax(1)
    assert np.array_equal(first[0], np.eye(9)[cue]) and len(set(cue)) == 4
    assert not distractors[..., :4].any() and not distractors[..., 8].any()
    assert np.array_equal(go[0], np.tile(np.eye(9)[8], (len(cue), 1))) and not last.any()
    # Distractors: fresh, and no linear reading of all of them and their squares tells the cue beyond chance.
    features = distractors[..., 4:8]
    assert np.abs(features).max() <= 1 and len(np.unique(features)) > 0.99 * features.size
    x = np.moveaxis(np.concatenate([features, features**2 - 1 / 3], -1), 0, 1).reshape(len(cue), -1)
    train, test = slice(0, 3000), slice(3000, None)
    weights = np.linalg.lstsq(x[train], np.eye(4)[cue[train]] - 0.25, rcond=None)[0]
    assert ((x[test] @ weights).argmax(1) == cue[test]).mean() < 0.25 + 5 * np.sqrt(0.25 * 0.75 / 1000)


# Simulators, names, options


class Simulator(BackendEnv):
    """Says whatever it is told, as a simulator might that leaves memory of a reset step as it was."""

    def __init__(self, *script: tuple[float, bool, bool]):
        super().__init__(EnvSpec("script", (Part("", "vector", (1,)),), Discrete(2), 1, 10), 1, render=False)
        self.script = iter(script)

    def _reset(self):
        return np.zeros((1, 1), np.float32)

    def _send(self, action, ids):
        pass

    def _recv(self):
        return RawStep(np.zeros((1, 1), np.float32), *(np.array([x]) for x in next(self.script)))


def test_garbage_in_a_reset_step_and_two_flags_at_once():
    env = Simulator(
        (1.0, True, True), (np.nan, False, False), (2.0, False, True), (4e36, False, False), (5.0, True, False)
    )
    env.reset()
    steps = [env.step(np.zeros(1, int)) for _ in range(5)]
    assert [x.reward[0] for x in steps] == [1, 0, 2, 0, 5]
    assert [x.terminated[0] for x in steps] == [True, False, False, False, True]
    assert [x.truncated[0] for x in steps] == [False, False, True, False, False]
    assert [x.episode_return[0] for x in steps[::2]] == [1, 2, 5]


def test_known_names_can_be_made():
    assert len(known_names("atari")) >= 100
    assert {"Pong", "Breakout", "MsPacman", "MontezumaRevenge", "UpNDown"} <= set(known_names("atari"))
    tasks = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "recall-30", "numpad-2")
    assert set(tasks) <= {*known_names("control"), *known_names("recall"), *known_names("numpad")}
    for name in tasks:
        play(EnvConfig(name, "control"), 3)
    for name in ("UpNDown", "TicTacToe3d", "Pitfall2"):
        for backend in ("envpool", "ale"):
            play(EnvConfig(name, backend=backend), 1, num_envs=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "Pongg"}, "did you mean Pong"),
        ({"name": "Pong-v5"}, "did you mean Pong"),
        ({"name": "ms_pacman", "backend": "ale"}, "did you mean MsPacman"),
        ({"name": "CartPole-v1"}, "unknown game 'CartPole-v1'"),
        ({"name": "CartPol-v1", "suite": "control"}, "CartPole-v1"),
        ({"name": "cartpole-v1", "suite": "control", "backend": "gymnasium"}, "CartPole-v1"),
        ({"name": "Pong-v5", "suite": "control"}, "unknown environment"),
        ({"name": "recall", "suite": "control"}, "recall-30"),
        ({"name": "recall-0", "suite": "control"}, "delay N of 1 or more"),
        ({"name": "recall-5", "suite": "control", "backend": "gymnasium"}, "built in"),
        ({"name": "numpad-2", "suite": "control", "backend": "envpool"}, "built in"),
        ({"suite": "arcade"}, "choose one of atari, control"),
        ({"backend": "openai"}, "choose one of auto, envpool, ale, gymnasium"),
        ({"backend": "gymnasium"}, "choose auto or envpool or ale"),
        ({"name": "CartPole-v1", "suite": "control", "backend": "ale"}, "choose auto or envpool or gymnasium"),
        ({"name": "CartPole-v1", "suite": "control", "sticky_actions": 0.25}, "--sticky-actions is an option of atari"),
        (
            {"name": "CartPole-v1", "suite": "control", "max_episode_frames": 400},
            "--max-episode-frames is an option",
        ),
        ({"sticky_actions": 1.5}, "probability"),
        ({"sticky_actions": float("nan")}, "probability"),
        ({"eval_sticky_actions": -0.1}, "--eval-sticky-actions is a probability"),
        ({"frame_stack": 0}, "--frame-stack must lie in 1..16"),
        ({"name": "CartPole-v1", "suite": "control", "frame_stack": 1}, "--frame-stack is an option of atari"),
        ({"reward_scale": 0.0}, "greater than 0"),
        ({"noop_max": -1}, "0 or more"),
        ({"max_episode_frames": 0}, "multiple of 4"),
        ({"max_episode_frames": 401}, "multiple of 4"),
        ({"backend": "ale", "episodic_life": True}, "take backend envpool"),
    ],
)
def test_a_wrong_configuration_is_one_line(options, says):
    with pytest.raises(EnvError) as error:
        make_env(EnvConfig(**options), 1, 0)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_call_is_one_line():
    cartpole = EnvConfig("CartPole-v1", "control")
    for arguments, says in (((0, 0), "num_envs"), ((1, -1), "seed"), ((1, 2**31), "seed"), ((1, 0, 0), "threads")):
        with pytest.raises(EnvError, match=says):
            make_env(cartpole, *arguments)
    with pytest.raises(EnvError, match="backend gymnasium"):
        make_env(EnvConfig("HalfCheetah-v4", "control"), 1, 0, render=True)
