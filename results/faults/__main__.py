"""Damage files and kill runs, and write what was lost: `python -m results.faults`."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np

from results import DATA, RUNS
from results.faults.damage import try_checkpoints, try_folders
from results.faults.kills import kill, plan
from results.faults.table import files_table, kills_table
from results.store import describe_measurement, read_figures, write_figures
from runners.config import ControlEnv
from runners.errors import Parser, main_guard
from runners.presets import PRESETS
from runners.training import AgentTraining


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m results.faults", description="Damage files and kill runs; count what is lost.")
    parser.add_argument("--files", type=int, default=4000, metavar="N", help="files to damage")
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="processes to kill")
    parser.add_argument("--json", type=Path, default=DATA / "faults/faults.json", metavar="FILE", help="figures")
    options = parser.parse_args(argv)
    figures = describe_measurement("results.faults", argv) | {"files": [], "kills": []}
    if options.json.exists():  # continue with the kills
        figures = read_figures(options.json)
    figures["files"] = figures["files"] or damage(options.files)
    print(files_table(figures))
    for i, (run, moment) in list(enumerate(plan(options.kills)))[len(figures["kills"]) :]:
        folder = RUNS / "faults" / run.name.replace(", ", "-").replace(" ", "-")
        if not any(each["run"] == run.name for each in figures["kills"]):
            rmtree(folder, ignore_errors=True)
        figures["kills"].append(kill(run, folder, moment, np.random.default_rng(i)))
        write_figures(options.json, figures)
        print(f"{i + 1} of {options.kills}: {figures['kills'][-1]}", flush=True)
    write_figures(options.json, figures)
    print(kills_table(figures))
    return 0


def damage(count: int) -> list[dict[str, str | int]]:
    """Damage `count` files, three quarters of them checkpoints of a small agent, and return what came of it."""
    config = PRESETS["control", "small"]("vmpo")
    network = replace(config.network, core="gtrxl", embedding=16, heads=2, key_size=8, mlp_size=16, memory=12)
    training = replace(config.training, envs=4, unroll=16, actors=0, precision="float32")
    run = AgentTraining(replace(config, env=ControlEnv(name="CartPole-v1"), network=network, training=training))
    loop = run.run()
    next(loop)
    state = run.get_state()
    loop.close()
    found = try_checkpoints(state, count * 3 // 4) + try_folders(state["learner"]["network"], count - count * 3 // 4)
    return [
        {"file": FILES[file], "kind": kind, "outcome": outcome, "count": n}
        for (file, kind, outcome), n in sorted(found.items())
    ]


FILES = {"step": "newest checkpoint", "best": "best checkpoint", "folder": "saved model"}

if __name__ == "__main__":
    main_guard(main)
