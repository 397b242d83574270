"""Calls of the mathematics are checked against the shapes in its signatures: conftest.py installs what does it."""

import pytest
import torch
from jaxtyping import TypeCheckError

from agents.gempi.kl import kl_to
from agents.returns import lambda_returns
from networks.attention import relative_shift
from networks.gates import make_gate


def test_a_wrong_shape_is_an_error() -> None:
    x, cut = torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    assert lambda_returns(x, x, torch.zeros(4, 2), cut, 0.5).shape == (3, 2)
    for call in (
        lambda: lambda_returns(x, x, x, cut, 0.5),
        lambda: lambda_returns(x, x, torch.zeros(4, 2), x, 0.5),
        lambda: kl_to(torch.zeros(2, 5), torch.zeros(4)),
        lambda: relative_shift(torch.zeros(4)),
        lambda: make_gate("gru", 2)(x, x[:1]),
    ):
        with pytest.raises(TypeCheckError):
            call()
