from results.experiment import ROLLOUTS, Experiment, Run

SEEDS = range(5)
FIXED = "--method gempi --trust-region none --temperature fixed"
MIXED = f"{FIXED} --anchors both"
CHOICES = {"pi_t alone (awr)": f"{FIXED} --filter all --anchors behaviour --lambda-behaviour 1"}
CHOICES |= {
    f"alpha {share:g}": f"{MIXED} --filter all --lambda-reference {share:g} --lambda-behaviour {1 - share:g}"
    for share in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9)
}
CHOICES |= {
    "pi_ref alone (rl-em)": f"{FIXED} --filter all --anchors reference --lambda-reference 1",
    "top-k, pi_t alone": f"{FIXED} --filter top-k --anchors behaviour --lambda-behaviour 1",
    "top-k, alpha 0.001": f"{MIXED} --filter top-k --lambda-reference 0.001 --lambda-behaviour 0.999",
}

EXPERIMENT = Experiment(
    name="lm_anchors",
    title="Language model: between two anchors",
    question="Sorting by DAR, coefficients alpha of pi_ref and 1 - alpha of pi_t: what does each anchor do, and is the "
    "limit of alpha to 0 AWR or, with top-k, V-MPO of a fixed eta?",
    runs=tuple(
        Run(label, seed, f"runners.lm --task sort --rollouts 200 --base-dir runs/bases {flags}")
        for seed in SEEDS
        for label, flags in CHOICES.items()
    ),
    unit=ROLLOUTS,
    metric="reward",
    bar=0.95,
    diagnostics=("e_step/ess_share", "e_step/kl_reference", "m_step/kl"),
)

EXPERIMENTS = (EXPERIMENT,)
