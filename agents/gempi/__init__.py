"""Generalised EM policy improvement: the tuple (divergence, anchor, coefficient, temperature, filter, trust region).

An E-step builds a target distribution from advantages; an M-step fits the policy to it by weighted maximum likelihood.
"""
