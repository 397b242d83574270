"""stable-baselines3's PPO with its CnnPolicy: the Nature CNN of 512 and linear heads. It has no memory."""

from sb3_common import PACKAGES, train
from stable_baselines3 import PPO

if __name__ == "__main__":
    train(PPO, "CnnPolicy", PACKAGES)
