from results.experiment import Experiment, Run
from results.experiments.pong_wide import VMPO

EXPERIMENT = Experiment(
    name="dropout_pong",
    title="Dropout in the M-step, Pong from pixels",
    question="Does V-MPO with a GTrXL memory learn Pong with dropout in torso and core?",
    runs=(Run("vmpo-gtrxl, wide, p = 0.1", 1, f"{VMPO} --dropout 0.1"),),
    cores=2,
    bar=18,
    diagnostics=("m_step/kl", "m_step/alpha", "m_step/entropy", "e_step/ess_share"),
)
