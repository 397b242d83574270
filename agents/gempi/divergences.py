"""Divergences of the E-step by name; each is a class in its own file."""

from agents.gempi.chi_square import ChiSquare
from agents.gempi.kl import KL
from agents.gempi.renyi import Renyi
from agents.gempi.target import Divergence

DIVERGENCES: dict[str, type[Divergence]] = {"kl": KL, "chi-square": ChiSquare, "renyi": Renyi}
