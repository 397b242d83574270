from setuptools import setup

LM = ["transformers>=4.56", "tokenizers", "accelerate", "datasets", "peft"]
TEST = ["pytest>=8", "pytest-xdist>=3.5", "transformers>=4.56", "tokenizers", "peft"]

setup(
    name="gempi",
    version="0.1.0",
    description="V-MPO with GTrXL memory on Atari, and the same EM steps on language models",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        "agents",
        "agents.gempi",
        "agents.sequences",
        "envs",
        "networks",
        "results",
        "results.experiments",
        "results.peers",
        "results.peers.drivers",
        "results.speed",
        "results.trl",
        "results.trl.drivers",
        "runners",
        "runners.lm",
        "runners.lm.tasks",
    ],
    install_requires=[
        "torch>=2.6,<2.14",
        "numpy>=1.26",
        "gymnasium>=1.1",
        "ale-py>=0.11",
        "envpool>=1.1",
        "tensorboard>=2.16",
        "tyro>=0.9",
        "rich>=13",
        "safetensors>=0.4",
        "pillow>=10",
        "matplotlib>=3.8",
        "scipy>=1.11",
    ],
    extras_require={
        "test": TEST,
        "mujoco": ["gymnasium[mujoco]"],
        "memory": ["popgym>=1.0.7", "minigrid>=3.0"],
        "lm": LM,
        "dev": [*TEST, "ruff>=0.6"],
    },
)
