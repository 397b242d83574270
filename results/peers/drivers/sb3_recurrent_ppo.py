"""sb3-contrib's RecurrentPPO, its actor and critic on one LSTM (by default each has its own, which is slower)."""

from protocol import options
from sb3_common import PACKAGES, train
from sb3_contrib import RecurrentPPO

if __name__ == "__main__":
    memory = {"lstm_hidden_size": options().hidden, "shared_lstm": True, "enable_critic_lstm": False}
    train(RecurrentPPO, "CnnLstmPolicy", [*PACKAGES, "sb3-contrib"], **memory)
