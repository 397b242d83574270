from results.experiment import Experiment, Run, Trace

COMMAND = "runners.atari --agent vmpo --core gtrxl --game Pong"
"""README's first command, whose game is Pong by default."""
SEEDS = range(20, 30)

EXPERIMENT = Experiment(
    name="pong",
    title="Pong from pixels",
    question="Does README's first command win on every seed, none of which the preset was chosen on?",
    runs=tuple(Run("vmpo-gtrxl", seed, COMMAND) for seed in SEEDS),
    cores=2,
    bar=18,
    diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "e_step/ess_share"),
    traces=(
        Trace("m_step/kl", "KL(pi_old || pi), budget 0.007", 0.0035, 0.014),
        Trace("m_step/alpha", "alpha, of the trust region"),
        Trace("e_step/ess_share", "effective share of the samples kept"),
    ),
)

EXPERIMENTS = (EXPERIMENT,)
