from setuptools import find_packages, setup

LM = ["transformers>=4.56", "tokenizers", "accelerate", "datasets", "peft"]
TEST = ["pytest>=8", "beartype>=0.20", "pytest-xdist>=3.5", "hypothesis>=6", "transformers>=4.56", "tokenizers", "peft"]

setup(
    name="gempi",
    version="0.1.0",
    description="V-MPO with GTrXL memory on Atari, and the same EM steps on language models",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["agents*", "envs*", "networks*", "results*", "runners*"]),
    install_requires=[
        "torch>=2.6,<2.14",
        "numpy>=1.26",
        "gymnasium>=1.1",
        "ale-py>=0.11",
        "envpool>=1.1",
        "tensorboard>=2.16",
        "tyro>=0.9",
        "typing_extensions>=4.8",
        "jaxtyping>=0.3",
        "rich>=13",
        "safetensors>=0.4",
        "pillow>=10",
        "matplotlib>=3.8",
        "scipy>=1.15",
        "pandas>=2.2",
        "jinja2>=3",
        "markdown>=3.4",
    ],
    extras_require={
        "test": TEST,
        "mujoco": ["gymnasium[mujoco]"],
        "memory": ["popgym>=1.0.7", "minigrid>=3.0"],
        "lm": LM,
        "reasoning": [*LM, "reasoning-gym>=0.1.25"],
        "docs": ["mkdocs>=1.6,<2", "mkdocstrings[python]>=0.27"],
        "dev": [*TEST, "ruff>=0.6"],
    },
)
