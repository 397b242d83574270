from results.experiment import Experiment, Run

SEEDS = (0, 1, 2)

CARTPOLE = Experiment(
    name="cartpole",
    title="CartPole-v1",
    question="Do both agents reach 475 of 500 with every kind of core, each run within 3 minutes?",
    runs=tuple(
        Run(
            f"{agent}-{core}",
            seed,
            f"runners.control --env CartPole-v1 --agent {agent} --core {core} --steps 300000 --actors 0"
            " --eval-episodes 100 --log-seconds 1",
        )
        for seed in SEEDS
        for agent in ("vmpo", "ppo")
        for core in ("feedforward", "lstm", "gtrxl")
    ),
    bar=475,
)

PENDULUM = Experiment(
    name="pendulum",
    title="Pendulum-v1",
    question="Does V-MPO with a Gaussian policy (decoupled mean and covariance KL) swing up and balance?",
    runs=tuple(
        Run(
            "vmpo-feedforward",
            seed,
            "runners.control --env Pendulum-v1 --agent vmpo --core feedforward --steps 400000 --actors 0"
            " --discount 0.95 --learning-rate 3e-4 --entropy-coefficient 0"
            " --eval-episodes 100 --log-seconds 1",
        )
        for seed in SEEDS
    ),
    bar=-200,
)

MUJOCO = tuple(
    Experiment(
        name=f"mujoco_{task.lower()}",
        title=f"{task}-v5",
        question="What return have a V-MPO and a PPO without memory after a million steps, by the mode?",
        runs=tuple(
            Run(
                f"{agent}-feedforward",
                seed,
                f"runners.control --env {task}-v5 --agent {agent} --core feedforward --actors 0 --eval-episodes 100",
            )
            for seed in SEEDS
            for agent in ("vmpo", "ppo")
        ),
        diagnostics=("m_step/kl_mu", "m_step/alpha_mu", "m_step/entropy", "e_step/efficiency"),
    )
    for task in ("HalfCheetah", "Hopper", "Walker2d")
)

EXPERIMENTS = (CARTPOLE, PENDULUM, *MUJOCO)
