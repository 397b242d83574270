"""Every kind of observation and action, held against gymnasium's own flattening and one plain environment."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.backend import environment_seeds
from envs.config import EnvConfig
from envs.factory import make_env
from envs.interface import Box, Discrete, EnvError, MultiDiscrete, Part
from envs.spaces import ActionScale, Reader, action_of
from support.envs_for_tests import ACTIONS, OBSERVATIONS


def tiny(name: str, **options) -> EnvConfig:
    return EnvConfig(f"support.envs_for_tests:{name}-v0", "control", **options)


def plain(name: str, actions: np.ndarray, seed: int, **options):
    """Yield what one plain environment shows, with the actions as it takes them, restarted a step after each end."""
    env = gymnasium.make(f"{name}-v0", **options)
    observation, info = env.reset(seed=seed)
    yield env.observation_space, observation, info, 0.0, False
    over = False
    for action in actions:
        if over:
            (observation, info), reward, over = env.reset(), 0.0, False
        else:
            observation, reward, *ends, info = env.step(action)
            over = any(ends)
        yield env.observation_space, observation, info, reward, over


# Observations


PARTS = {
    "vector": [Part("", "vector", (3,))],
    "wide": [Part("", "vector", (4,), unbounded=True)],
    "integers": [Part("", "vector", (2,), unbounded=True)],
    "booleans": [Part("", "vector", (7,))],
    "number": [Part("", "vector", (1,), unbounded=True)],
    "picture": [Part("", "picture", (3, 9, 10))],
    "channels": [Part("", "picture", (2, 9, 10))],
    "grey": [Part("", "picture", (1, 9, 10))],
    "discrete": [Part("", "onehot", (100,))],
    "multidiscrete": [Part("", "onehot", (52,))],
    "multibinary": [Part("", "onehot", (7,))],
    "tuple": [Part("0", "onehot", (50,)), Part("1", "onehot", (2,))],
    "dict": [
        Part("inner/bit", "onehot", (2,)),
        Part("inner/both", "vector", (2,), unbounded=True),
        Part("screen", "picture", (1, 9, 10)),
        Part("tail/0", "onehot", (7,)),
        Part("tail/1", "vector", (1,)),
    ],
}


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_an_observation_is_what_gymnasium_flattens(observation):
    name = f"Tiny-{observation}-discrete"
    env = make_env(tiny(name), 2, 5)
    actions = np.stack([env.spec.action.sample(np.random.default_rng(t), 2) for t in range(100)])
    steps = [env.reset(), *(env.step(action) for action in actions)]
    assert sorted(env.spec.parts, key=lambda part: part.name) == PARTS[observation]
    own = tuple(part.size for part in env.spec.parts)
    assert env.spec.observation_shape == (PARTS[observation][0].shape if len(own) == 1 else (sum(own),))
    for i, seed in enumerate(environment_seeds(5, 2)):
        played = plain(name, actions[:, i] - 1, seed)
        for step, (space, shown, _, reward, over) in zip(steps, played, strict=True):
            if observation == "picture":
                expected = np.moveaxis(shown, -1, 0)
            else:
                expected = spaces.flatten(space, shown).reshape(env.spec.observation_shape)
            np.testing.assert_array_equal(step.observation[i], expected.astype(step.observation.dtype))
            assert step.reward[i] == np.float32(reward) and (step.terminated | step.truncated)[i] == over


def test_a_batch_is_read_as_its_members_are():
    """envpool and gymnasium's vectors hand out arrays of all environments."""
    for observation, (space, show) in OBSERVATIONS.items():
        reader = Reader("tiny", space, Discrete(2))
        each = [show(t, t % 2) for t in range(5)]
        batched = gymnasium.vector.utils.concatenate(space, each, gymnasium.vector.utils.create_empty_array(space, n=5))
        read = reader(batched)
        np.testing.assert_array_equal(read, reader.stack(each), err_msg=observation)
        assert read.flags.c_contiguous
        assert read.dtype == (reader.parts[0].dtype if len(reader.parts) == 1 else "float32")


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((84, 84, 3), (3, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),
        ((8, 8), (1, 8, 8)),
        ((20, 18, 16), (16, 20, 18)),
        ((9, 20, 30), (9, 20, 30)),
        ((7, 7, 3), None),
        ((7, 8), None),
        ((84, 84, 17), None),
        ((2, 3, 84, 84), None),
        ((100,), None),
    ],
)
def test_what_looks_like_a_picture(shape, found):
    (part,) = Reader("x", spaces.Box(0, 255, shape, np.uint8), Discrete(2)).parts
    assert (part.kind, part.shape) == (("picture", found) if found else ("vector", (int(np.prod(shape)),)))
    (real,) = Reader("x", spaces.Box(0, 255, shape, np.float32), Discrete(2)).parts
    assert real.kind == "vector" and real.unbounded
    (small,) = Reader("x", spaces.Box(0, 3, shape, np.uint8), Discrete(2)).parts
    assert small.kind == "vector" and not small.unbounded


@pytest.mark.parametrize("value", [0.5, 300, -1, np.nan])
def test_a_picture_of_other_numbers_than_its_space_has_is_refused(value):
    """In 8 bits 0.5 would be 0, and 300 would be 44."""
    reader = Reader("x", spaces.Box(0, 255, (8, 8, 3), np.uint8), Discrete(2))
    assert (reader.stack([np.full((8, 8, 3), 7.0)]) == 7).all()
    with pytest.raises(EnvError, match=f"the observation holds {value:g}, and its space has whole numbers"):
        reader.stack([np.full((8, 8, 3), value)])


def test_symbols_keep_their_grid():
    space = spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "mission": spaces.Text(9)})
    reader = Reader("grid", space, Discrete(2), {"image": (11, 6, 3)}, ("mission",))
    assert reader.parts == (Part("image", "symbols", (7, 7, 3), (11, 6, 3)),)
    image = np.random.default_rng(0).integers((11, 6, 3), size=(4, 7, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(reader({"image": image}), image)
    image[2, 3, 3, 1] = 6
    with pytest.raises(EnvError, match="symbols up to"):
        reader({"image": image})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("text", "observation 'text' is a Text"),
        ("long", "observation 'text' has 4097 values"),
        ("action", "takes a Dict: actions must be"),
        ("nan", "b[3] is NaN at step 3 of environment 0"),
        ("inf", "b[3] is -inf at step 3 of environment 0"),
        ("huge", "b[3] is inf at step 3"),
        ("shape", "observation 'b' is float32 (2, 2) where its space says (2, 3)"),
        ("value", "observation 'a' is 4, which its space rules out"),
        ("missing", "observation 'text' is not what its space says"),
        ("reward", "reward is NaN at step 3 of environment 0"),
        ("raises", "step() of environment 0 raised KeyError: 'joint'"),
        ("exits", "step() of environment 0 raised SystemExit: bye"),
        ("four", "step() of environment 0 raised ValueError: not enough values to unpack (expected 5, got 4)"),
        ("much", "reward is 1e+39 at step 3"),
        ("none", "a reward must be one number, not None"),
        ("pair", "a reward must be one number, not array([0., 0.])"),
        ("uneven", "a reward must be one number, not [[0], [0, 0]]"),
        ("words", "a reward must be one number, not 'a lot'"),
        ("digit", "a reward must be one number, not '1'"),
        ("mask", "the action mask of environment 0 allows nothing at step 3"),
        ("size", "observation 'action_mask' has 3 entries, but actions have 2 choices"),
        ("info", "has 5 entries, but actions have 2 choices"),
        ("late", "info['action_mask'] must be there from the first reset on"),
        ("tuple", "observation 'action_mask/0' is a part of a mask: give the mask as one MultiBinary(2)"),
    ],
)
def test_what_an_environment_does_wrong_is_one_line(wrong, says):
    with pytest.raises(EnvError) as error:
        env = make_env(tiny(f"Wrong-{wrong}"), 2, 0)
        env.reset()
        for t in range(1, 4):
            assert env.step(np.zeros(2, int)).reward.shape == (2,)
            assert t < 3
    assert says in str(error.value) and "\n" not in str(error.value) and f"Wrong-{wrong}-v0" in str(error.value)


NOTHING = spaces.Box(-1, 1, (0,), np.float32)


@pytest.mark.parametrize(
    "space", [NOTHING, spaces.Box(-1, 1, (2, 0)), spaces.Discrete(1, start=3), spaces.MultiDiscrete([1, 1])]
)
def test_actions_that_leave_nothing_to_choose_are_refused(space):
    with pytest.raises(EnvError, match="^idle takes a .*: an agent needs something to choose$"):
        action_of("idle", space)


MASK_ALONE = spaces.Dict({"action_mask": spaces.MultiBinary(2)})


@pytest.mark.parametrize("space", [NOTHING, spaces.Dict({"a": NOTHING}), spaces.Dict({}), MASK_ALONE])
def test_observations_of_nothing_are_refused(space):
    with pytest.raises(EnvError, match="^blind has an empty observation space: an agent needs something to observe$"):
        Reader("blind", space, Discrete(2))
    seen = Reader("blind", spaces.Dict({"a": NOTHING, "b": spaces.Discrete(2)}), Discrete(2))
    assert seen.stack([{"a": np.zeros(0, np.float32), "b": 1}]).tolist() == [[0, 1]]


@pytest.mark.parametrize("reward", [2, 2.0, np.float32(2), np.array([2.0]), np.array(2, np.int8)])
def test_one_number_of_any_kind_is_a_reward(reward, monkeypatch):
    """Also in a step in which another environment begins an episode, whose reward is none of its own."""
    monkeypatch.setattr("support.envs_for_tests.Tiny.step", lambda env, _: (env.reset()[0], reward, True, False, {}))
    env = make_env(tiny("Tiny-vector-discrete"), 2, 0)
    env.reset()
    assert env.step(np.zeros(2, int), np.array([True, False])).reward.tolist() == [2, 0]
    assert env.step(np.zeros(2, int)).reward.tolist() == [0, 2]


@pytest.mark.parametrize("flag", [True, 1, np.True_, np.array([True])])
def test_a_flag_may_be_an_array_of_one(flag, monkeypatch):
    monkeypatch.setattr("support.envs_for_tests.Tiny.step", lambda env, _: (env.reset()[0], 0, flag, False, {}))
    env = make_env(tiny("Tiny-vector-discrete"), 2, 0)
    env.reset()
    assert env.step(np.zeros(2, int)).terminated.tolist() == [True, True]


# Masks


@pytest.mark.parametrize("within", ["part", "info"])
@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_masks(within, observation):
    """One that is not brought allows everything, and so does an empty one at the end of an episode."""
    name = f"Masked-{within}-{observation}"
    env = make_env(tiny(name), 2, 5)
    start = 0
    for part in env.spec.parts:
        if part.kind == "mask":
            break
        start += part.size
    assert part == Part("action_mask", "mask", (5,))
    actions = np.stack([env.spec.action.sample(np.random.default_rng(t), 2) for t in range(200)])
    steps = [env.reset(), *(env.step(action) for action in actions)]
    ends = 0
    for i, seed in enumerate(environment_seeds(5, 2)):
        played = plain(name, actions[:, i] + np.array([0, 1]), seed)
        for step, (_, shown, info, _, over) in zip(steps, played, strict=True):
            if within == "part":
                mask = shown["action_mask"]
            else:
                mask = np.concatenate(info.get("action_mask", [np.ones(5)]))
            mask = np.ones(5) if over else mask
            assert mask[:2].any() and mask[2:].any()
            np.testing.assert_array_equal(step.observation[i, start : start + 5], mask)
            ends += over
    assert ends > 6 and not all(step.observation[:, start : start + 5].all() for step in steps)


def test_a_registered_environment_with_a_mask():
    env = make_env(EnvConfig("Taxi-v4", "control", "gymnasium"), 3, 0)
    assert [part.kind for part in env.spec.parts] == ["onehot", "mask"] or env.spec.parts[0].kind == "mask"
    env.reset()
    assert env.step(np.zeros(3, int)).observation.shape == (3, 506)


# Actions


@pytest.mark.parametrize(
    ("action", "ours"),
    [
        ("discrete", Discrete(3)),
        ("multidiscrete", MultiDiscrete((2, 3))),
        ("multibinary", MultiDiscrete((2, 2))),
        ("box", Box((2,))),
        ("matrix", Box((4,))),
        ("int8", Box((2,))),
    ],
)
def test_every_action_reaches_the_environment_in_its_own_form(action, ours):
    """Tiny refuses actions that its space does not contain, and pays their sum."""
    space = ACTIONS[action]
    found, own = action_of("tiny", space)
    assert found == ours
    batch = ours.sample(np.random.default_rng(0), 500)
    converted = own(batch)
    assert converted.shape == (500, *space.shape) and converted.dtype == space.dtype
    assert all(space.contains(x) for x in converted)
    env = make_env(tiny(f"Tiny-vector-{action}"), 500, 0)
    env.reset()
    np.testing.assert_allclose(env.step(batch).reward, converted.reshape(500, -1).sum(1, dtype=float), rtol=1e-5)


def test_boxes_are_rescaled_to_their_bounds():
    scale = ActionScale(ACTIONS["box"])
    corners = np.array([[-1, -1], [0, 0], [1, 1], [0.5, -0.5]], np.float32)
    np.testing.assert_allclose(scale(corners), [[-2, 0], [0, 5], [2, 10], [1, 2.5]], rtol=1e-6)
    matrix = ActionScale(spaces.Box(np.array([[0.0, 1], [2, 3]]), np.array([[1.0, 3], [5, 7]]), dtype=np.float64))
    np.testing.assert_allclose(matrix(np.zeros((1, 4), np.float32)), [[[0.5, 2], [3.5, 5]]])


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0, 3, np.int64), (-2, 2, np.int64), (-100, 100, np.int8), (-128, 127, np.int8), (0, 20, np.uint8), (0, 1, bool)],
)
def test_integers_are_hit_evenly(low, high, kind):
    values = ActionScale(spaces.Box(low, high, (1,), kind))(np.linspace(-1, 1, 100_001, dtype=np.float32)[:, None])
    found, counts = np.unique(values.astype(int), return_counts=True)
    assert np.array_equal(found, np.arange(low, high + 1)) and values.dtype == kind
    assert counts.max() <= counts.min() + 3


def test_bounds_that_are_none_are_refused_or_cut():
    most = np.finfo(np.float32).max
    for low, high in ((-np.inf, np.inf), (-most, most), (0, np.inf), (-1e6, 1), (-(2**31), 2**31 - 2)):
        kind = np.int32 if isinstance(low, int) and isinstance(high, int) and low else np.float32
        space = spaces.Box(low, high, (2,), kind)
        with pytest.raises(EnvError, match="--action-bound B cuts them"):
            ActionScale(space)
        cut = ActionScale(space, bound=3.0)(np.array([[-1, 1]], np.float32))
        np.testing.assert_array_equal(cut, [[max(low, -3), min(high, 3)]])
    with pytest.raises(EnvError, match="leaves far no actions between"):
        ActionScale(spaces.Box(5, np.inf, (1,), np.float32), 2.0, "far")
    with pytest.raises(EnvError, match="have no bounds"):
        make_env(tiny("Tiny-vector-unbounded"), 1, 0)
    env = make_env(tiny("Tiny-vector-unbounded", action_bound=2.0), 1, 0)
    env.reset()
    assert env.step(np.ones((1, 1), np.float32)).reward == 2
    with pytest.raises(EnvError, match="are choices: leave it out"):
        make_env(tiny("Tiny-vector-discrete", action_bound=2.0), 1, 0)


def test_products_of_choices_are_validated():
    action = MultiDiscrete((2, 3))
    good = np.array([[1, 2], [0, 0]])
    assert action.validate(good, 2) is good
    for wrong in ([[2, 0], [0, 0]], [[0, 0], [0, -1]]):
        with pytest.raises(EnvError, match="actions must be at least 0"):
            action.validate(np.array(wrong), 2)
