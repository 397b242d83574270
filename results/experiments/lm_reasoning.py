from results.experiment import ROLLOUTS, Experiment, Run

TASKS = ("chain_sum", "gcd", "spell_backward")
METHODS = {
    "vmpo": "--method vmpo",
    "dar, published": "--preset paper --method dar --prompts 16",
    "awr": "--method awr",
    "rest-em": "--method rest-em --baseline none",
    "ppo, token": "--method ppo --ratio token",
}
"""Flags of each method, all with 64 completions a rollout."""


def experiment(task: str) -> Experiment:
    command = f"runners.lm --task reasoning:{task} --rollouts 300 --base-dir runs/bases"
    runs = tuple(Run(label, seed, f"{command} {flags}") for seed in range(5) for label, flags in METHODS.items())
    return Experiment(
        name=f"lm_reasoning_{task}",
        title=f"Language model: reasoning-gym's {task}",
        question="How much does each method gain from 300 rollouts of 64 completions, by the task's own verifier?",
        runs=runs,
        unit=ROLLOUTS,
        metric="reward",
        diagnostics=("e_step/ess_share", "e_step/saturated", "m_step/kl"),
    )


EXPERIMENTS = tuple(map(experiment, TASKS))
