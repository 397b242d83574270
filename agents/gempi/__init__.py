"""Generalised EM policy improvement: a tuple (divergences, anchors, coefficients, temperature, filter, trust region).

An E-step builds a target distribution from advantages; an M-step fits the policy to it by weighted maximum likelihood.

| equation                                              | file                        |
|-------------------------------------------------------|-----------------------------|
| the whole E-step, in the paper's order                | e_step.py                   |
| psi, the softmax of A / eta; DAR's weights            | kl.py                       |
| psi of other divergences                              | chi_square.py, renyi.py     |
| pi_ref / pi_t, the masses of the anchors              | anchors.py                  |
| eta or lambda_j, and the dual L_eta                   | temperature.py              |
| top-k                                                 | filters.py                  |
| the weighted likelihood L_pi                          | m_step.py                   |
| alpha, and its dual L_alpha                           | trust_region.py             |
| the table of methods                                  | methods.py                  |
"""
