from results.experiment import Experiment, Run
from results.experiments.pong import WIDE_RUNS

EXPERIMENT = Experiment(
    name="dropout_pong",
    title="Dropout in the M-step, Pong from pixels",
    question="Does V-MPO with a GTrXL memory learn Pong with dropout in torso and core?",
    runs=(
        Run(
            "vmpo-gtrxl, wide, p = 0.1",
            1,
            f"{WIDE_RUNS['vmpo-gtrxl, wide'][1]} --dropout 0.1",
        ),
    ),
    cores=2,
    bar=18,
    diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "e_step/ess_share"),
)
