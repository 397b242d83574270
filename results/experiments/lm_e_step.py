from results.experiment import ROLLOUTS, Experiment, Run

EXPERIMENT = Experiment(
    name="lm_e_step",
    title="Language model: an E-step of the rollout, or one a prompt",
    question="Does it matter whether the target is joint over the prompts of a rollout, or each prompt has its own?",
    runs=tuple(
        Run(
            f"{task}, {method}, {e_step}",
            seed,
            f"runners.lm --task {task} --method {method} --e-step {e_step} --rollouts 200 --base-dir runs/bases",
        )
        for seed in range(5)
        for task in ("sort", "walks")
        for method in ("vmpo", "dar")
        for e_step in ("batch", "prompt")
    ),
    unit=ROLLOUTS,
    metric="reward",
    diagnostics=("e_step/ess_share", "m_step/kl"),
)

EXPERIMENTS = (EXPERIMENT,)
