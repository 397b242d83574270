"""Any environment that is registered with gymnasium; they step one after the other in Python, which is slow."""

import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.backend import BackendEnv, RawStep, environment_seeds, one_line
from envs.config import EnvConfig
from envs.interface import Action, EnvError, EnvSpec
from envs.names import unknown
from envs.saving import plain_state, set_plain_state
from envs.spaces import MASK, Reader, action_of, choices_of
from envs.suites import Suite, gymnasium_names

# Without a display MuJoCo draws by EGL or OSMesa only if this variable says so before its first import; and that import
# fails if the library named is not installed.
if not os.environ.get("DISPLAY") and "MUJOCO_GL" not in os.environ:
    library = next(filter(find_library, ("EGL", "OSMesa")), None)
    if library:
        os.environ["MUJOCO_GL"] = library.lower()

FAILURES = (
    gymnasium.error.Error,
    ImportError,
    AttributeError,
    OSError,
    RuntimeError,
    SystemExit,
    TypeError,
    ValueError,
)


def registered(name: str, suite: Suite) -> str:
    """Import the modules that `name`, "Name-v0" or "module:Name-v0", needs, and return its id in gymnasium's registry.

    EnvError for a module that cannot be imported, and for an id that nothing has registered.
    """
    module, _, task = name.rpartition(":")
    for needed, advice in ((suite.package, "pip install -e '.[memory]'"), (module, "is it on PYTHONPATH?")):
        if needed:
            try:
                import_module(needed)
            except ImportError as error:
                raise EnvError(f"{name} needs the module {needed}: {one_line(error)} ({advice})") from error
    if task not in gymnasium.registry:
        if module:
            raise EnvError(f"importing {module} registers no {task} with gymnasium: call gymnasium.register at import")
        raise EnvError(unknown("environment", task, sorted(gymnasium_names(suite))))
    return task


class GymnasiumEnv(BackendEnv):
    """A list of environments that step in `recv`, in the caller's thread.

    If an environment gives `info["action_mask"]` at its first reset, the mask becomes a part of each observation;
    steps that give none then allow all actions. EnvError for a mask that first comes later.
    """

    def __init__(self, config: EnvConfig, suite: Suite, num_envs: int, seed: int, threads: int, render: bool):
        name, task = config.name, registered(config.name, suite)
        options: dict[str, Any] = {"disable_env_checker": True}
        if config.max_episode_steps:
            options["max_episode_steps"] = config.max_episode_steps
        if render:
            options["render_mode"] = "rgb_array"
            _check_draws(name, task)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on newer versions of a task, and on the precision of bounds
                self._envs = [gymnasium.make(task, **options) for _ in range(num_envs)]
        except FAILURES as error:
            raise EnvError(f"gymnasium cannot make {name}: {one_line(error)}") from error
        env = self._envs[0]
        action, self._own_action = action_of(name, env.action_space, config.action_bound)
        # Only a reset shows whether an environment gives masks, and the spec must say so before the caller's reset.
        with _named(name, "reset()"):
            self._resets = [
                env.reset(seed=own_seed)
                for env, own_seed in zip(self._envs, environment_seeds(seed, num_envs), strict=True)
            ]
            infos = [info for _, info in self._resets]
        self._mask = _InfoMask(name, env.observation_space, action, infos)
        self._reader = Reader(name, self._mask.space, action, suite.symbols, suite.ignored)
        super().__init__(
            EnvSpec(name, self._reader.parts, action, 1, env.spec.max_episode_steps or 0), num_envs, render
        )

    def _reset(self) -> np.ndarray:
        return self._reader.stack([self._mask.joined(*reset) for reset in self._resets])

    def _send(self, action: np.ndarray, ids: np.ndarray | None) -> None:
        self._action = self._own_action(action)
        self._stepping = range(self.num_envs) if ids is None else ids

    def _recv(self) -> RawStep:
        observations, rewards, flags = [], [], []
        for i in self._stepping:
            with _named(self.spec.name, f"{'reset()' if self._first[i] else 'step()'} of environment {i}"):
                if self._first[i]:
                    (observation, info), reward, ends = self._envs[i].reset(), 0.0, (False, False)
                else:
                    observation, reward, terminated, truncated, info = self._envs[i].step(self._action[i])
                    ends = _flag(terminated), _flag(truncated)
            observations.append(self._mask.joined(observation, info))
            rewards.append(_number(self.spec.name, reward))
            flags.append(ends)
        terminated, truncated = np.array(flags, bool).T
        return RawStep(self._reader.stack(observations), np.array(rewards), terminated, truncated)

    def _render(self) -> np.ndarray:
        try:
            pictures = np.stack([np.asarray(env.render()) for env in self._envs])
        except Exception as error:  # whatever a drawing library raises
            raise EnvError(f"gymnasium cannot draw {self.spec.name}: {one_line(error)}") from error
        if pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise EnvError(f"gymnasium cannot draw {self.spec.name}: its render() returns no picture [H, W, 3]")
        return pictures.astype(np.uint8, copy=False)

    def _get_state(self) -> list[Any]:
        return [plain_state(env) for env in self._envs]

    def _set_state(self, state: list[Any]) -> None:
        for env, own in zip(self._envs, state, strict=True):
            set_plain_state(env, own)

    def _close(self) -> None:
        for env in self._envs:
            env.close()


@contextmanager
def _named(name: str, call: str) -> Iterator[None]:
    """Turn what an environment's own `call` raises into an EnvError that says whose it is."""
    try:
        yield
    except (Exception, SystemExit) as error:  # SystemExit would end the run with its own word alone
        raise EnvError(f"{name}: {call} raised {type(error).__name__}: {one_line(error)} (see --debug)") from error


def _flag(value: Any) -> bool:
    """Return `terminated` or `truncated`, a bool or an array of one."""
    return bool(np.asarray(value).item())


def _number(name: str, reward: Any) -> float:
    """Return a reward, a number or an array of one; numpy alone would make NaN of None, and 1.0 of the text "1"."""
    try:
        value = np.asarray(reward)
    except ValueError:  # of lists that differ in their lengths
        value = np.empty(0)
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise EnvError(f"{name}: a reward must be one number, not {' '.join(repr(reward).split())}")
    return float(value.item())


class _InfoMask:
    """Joins the masks that environments give in `info` to their observations."""

    def __init__(self, name: str, space: gymnasium.Space, action: Action, infos: list[dict]):
        self._name = name
        self._size = choices_of(action)
        within = isinstance(space, spaces.Dict)
        masked = within and MASK in space.spaces
        self._brought = any(MASK in info for info in infos) and self._size > 0 and not masked
        self._unmasked = self._size > 0 and not masked and not self._brought
        self._within = within
        self.space = space
        if self._brought:
            own = dict(space.spaces) if within else {"observation": space}
            self.space = spaces.Dict({**own, MASK: spaces.MultiBinary(self._size)})

    def joined(self, observation: Any, info: dict) -> Any:
        if self._unmasked and MASK in info:
            raise EnvError(f"{self._name}: info['{MASK}'] must be there from the first reset on, not from a later step")
        if not self._brought:
            return observation
        mask = info.get(MASK)
        if mask is None:
            mask = np.ones(self._size, np.int8)
        elif isinstance(mask, tuple | list):  # one for each choice of a MultiDiscrete
            mask = np.concatenate([np.ravel(choice) for choice in mask])
        mask = np.ravel(mask)
        if mask.size != self._size:
            raise EnvError(
                f"{self._name}: info['{MASK}'] has {mask.size} entries, but actions have {self._size} choices"
            )
        return {**(observation if self._within else {"observation": observation}), MASK: mask != 0}


def _check_draws(name: str, task: str) -> None:
    """Raise EnvError for an environment whose metadata has no render mode rgb_array."""
    entry = gymnasium.registry[task].entry_point
    try:
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except FAILURES as error:
        raise EnvError(f"gymnasium cannot make {name}: {one_line(error)}") from error
    if inspect.isclass(creator) and "rgb_array" not in (creator.metadata or {}).get("render_modes", ()):
        raise EnvError(f"gymnasium cannot draw {name}: its metadata has no render mode rgb_array")
