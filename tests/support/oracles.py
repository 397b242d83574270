"""Slow, plain references in float64 numpy, written from the papers' equations: one loop per index.

Nothing here shares code with what it checks. Weights come in as numpy arrays named as in the papers.
"""

import numpy as np


def array(tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def layer_norm(x, scale, shift, eps=1e-5):
    """LN of one vector: the variance is the biased one."""
    return (x - x.mean()) / np.sqrt(x.var() + eps) * scale + shift


# --- gates, GTrXL eqs. (1910.06764, section 3.2): x is the skip stream, y the sub-block's output --


def gru_gate(x, y, w_r, w_z, w_g, u_r, u_z, u_g, b_g):
    r = sigmoid(w_r @ y + u_r @ x)
    z = sigmoid(w_z @ y + u_z @ x - b_g)
    h = np.tanh(w_g @ y + u_g @ (r * x))
    return (1.0 - z) * x + z * h


def input_gate(x, y, w):
    return sigmoid(w @ x) * x + y


def output_gate(x, y, w, b):
    return x + sigmoid(w @ x - b) * y


def highway_gate(x, y, w, b):
    s = sigmoid(w @ x + b)
    return s * x + (1.0 - s) * y


def sigtanh_gate(x, y, w, u, b):
    return x + sigmoid(w @ y - b) * np.tanh(u @ y)


def gate_function(name, module):
    """The equation of gate `name` with the module's weights, as a function of two vectors [D]."""
    p = {key: array(value) for key, value in module.state_dict().items()}
    if name == "gru":
        w_r, w_z, w_g = np.split(p["from_y.weight"], 3)
        u_r, u_z = np.split(p["from_x.weight"], 2)
        return lambda x, y: gru_gate(x, y, w_r, w_z, w_g, u_r, u_z, p["candidate.weight"], p["bias"])
    if name == "input":
        return lambda x, y: input_gate(x, y, p["weight.weight"])
    if name == "output":
        return lambda x, y: output_gate(x, y, p["weight.weight"], p["bias"])
    if name == "highway":
        return lambda x, y: highway_gate(x, y, p["weight.weight"], p["bias"])
    if name == "sigtanh":
        return lambda x, y: sigtanh_gate(x, y, p["gate.weight"], p["candidate.weight"], p["bias"])
    raise KeyError(name)


# --- attention, Transformer-XL (1901.02860, section 3.3) ------------------------------------------


def sinusoid(offset, size):
    """Phi of one offset: sines of every frequency, then cosines of every frequency."""
    frequencies = [10000.0 ** (-2.0 * i / size) for i in range(size // 2)]
    return np.array([np.sin(offset * f) for f in frequencies] + [np.cos(offset * f) for f in frequencies])


def attended_to(p, query_input, keys_input, offsets):
    """Weights [H, K] of one query vector [D] on a list of key vectors [D], each `offsets[j]` steps in the past.

    logit_j = ((q + u_h) . k_j + (q + v_h) . (W_R Phi(offset_j))) / sqrt(key_size), for each head h; p: attention's
    parameters.
    """
    u, v = p["content_bias"], p["position_bias"]
    heads, key_size = u.shape
    weights = []
    for h in range(heads):
        rows = slice(h * key_size, (h + 1) * key_size)
        q = p["query.weight"][rows] @ query_input
        logits = []
        for key_input, offset in zip(keys_input, offsets, strict=True):
            k = p["key.weight"][rows] @ key_input
            r = p["relative.weight"][rows] @ sinusoid(offset, p["relative.weight"].shape[1])
            logits.append(((q + u[h]) @ k + (q + v[h]) @ r) / np.sqrt(key_size))
        weights.append(softmax(np.array(logits)))
    return np.stack(weights)


def attend(p, query_input, keys_input, offsets):
    """One query vector [D] over a list of key vectors [D], as in `attended_to`: the mixed values, projected, [D]."""
    mixed = []
    for h, weights in enumerate(attended_to(p, query_input, keys_input, offsets)):
        rows = slice(h * len(p["content_bias"][0]), (h + 1) * len(p["content_bias"][0]))
        values = [p["value.weight"][rows] @ key_input for key_input in keys_input]
        mixed.append(sum(w * value for w, value in zip(weights, values, strict=True)))
    return p["output.weight"] @ np.concatenate(mixed)


def attention(p, query_input, memory_and_input, mask):
    """[B, T, D], [B, M+T, D], mask [B, T, M+T] -> [B, T, D]. Key j is M + i - j steps before query i."""
    batch, steps, _ = query_input.shape
    memory = memory_and_input.shape[1] - steps
    out = np.zeros_like(query_input)
    for b in range(batch):
        for i in range(steps):
            attended = [j for j in range(memory + steps) if mask[b, i, j]]
            keys = [memory_and_input[b, j] for j in attended]
            out[b, i] = attend(p, query_input[b, i], keys, [memory + i - j for j in attended])
    return out


# --- whole cores, one environment and one step at a time, memory as a plain list ------------------


def layer_weights(layer, variant, gate="gru"):
    """Weights of one layer by name: its attention's as a dictionary, its gates as functions."""
    p = {name: array(value) for name, value in layer.state_dict().items()}
    p["attention"] = {name: array(value) for name, value in layer.attention.state_dict().items()}
    if variant == "gtrxl":
        p["attention_gate"] = gate_function(gate, layer.attention_gate)
        p["mlp_gate"] = gate_function(gate, layer.mlp_gate)
    return p


def transformer_layer(p, variant, memory, e):
    """One layer on one step. memory: list of earlier inputs of this layer, oldest first; e: this step's input [D]."""
    offsets = [len(memory) - j for j in range(len(memory) + 1)]

    def norm(name, x):
        return layer_norm(x, p[name + ".weight"], p[name + ".bias"])

    def mlp(x):  # two layers, position-wise, no activation on its output
        hidden = np.maximum(p["mlp.0.weight"] @ x + p["mlp.0.bias"], 0.0)
        return p["mlp.2.weight"] @ hidden + p["mlp.2.bias"]

    if variant == "trxl":
        y = norm("attention_norm", e + attend(p["attention"], e, memory + [e], offsets))
        return norm("mlp_norm", y + mlp(y))
    normed = [norm("attention_norm", m) for m in memory + [e]]
    attended = np.maximum(attend(p["attention"], normed[-1], normed, offsets), 0.0)
    y = e + attended if variant == "trxl-i" else p["attention_gate"](e, attended)
    transformed = np.maximum(mlp(norm("mlp_norm", y)), 0.0)
    return y + transformed if variant == "trxl-i" else p["mlp_gate"](y, transformed)


def transformer(layers, variant, window, x, first, memories=None):
    """layers: weights of each layer; x [T, B, D], first [T, B]; memories[b][i]: the newest `window` inputs of layer i.

    Returns y [T, B, D] and the memories after the last step (those given are changed).
    """
    steps, batch, _ = x.shape
    if memories is None:
        memories = [[[] for _ in layers] for _ in range(batch)]
    y = np.zeros_like(x)
    for b in range(batch):
        for t in range(steps):
            if first[t, b]:
                memories[b] = [[] for _ in layers]
            e = x[t, b]
            for i, p in enumerate(layers):
                e_next = transformer_layer(p, variant, memories[b][i], e)
                memories[b][i] = (memories[b][i] + [e])[-window:]
                e = e_next
            y[t, b] = e
    return y, memories


def lstm(w_x, w_h, bias, x, first, h, c):
    """x [T, B, D], gates stacked (input, forget, cell, output); h, c [B, H] are zero where an episode begins."""
    steps, batch, _ = x.shape
    h, c = h.copy(), c.copy()
    y = np.zeros((steps, batch, h.shape[1]))
    for t in range(steps):
        for b in range(batch):
            if first[t, b]:
                h[b], c[b] = 0.0, 0.0
            i, f, g, o = np.split(w_x @ x[t, b] + w_h @ h[b] + bias, 4)
            c[b] = sigmoid(f) * c[b] + sigmoid(i) * np.tanh(g)
            h[b] = sigmoid(o) * np.tanh(c[b])
            y[t, b] = h[b]
    return y, h, c


def gru(w_x, w_h, b_x, b_h, x, first, h):
    """x [T, B, D], gates stacked (reset, update, candidate), the recurrent bias within the reset; h [B, H] is zero
    where an episode begins."""
    h = h.copy()
    y = np.zeros((*x.shape[:2], h.shape[1]))
    for t, b in np.ndindex(x.shape[:2]):
        if first[t, b]:
            h[b] = 0.0
        (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w_x @ x[t, b] + b_x, 3), np.split(w_h @ h[b] + b_h, 3)
        z = sigmoid(z_x + z_h)
        h[b] = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * h[b]
        y[t, b] = h[b]
    return y, h


def mingru(layers, x, first, h):
    """x [T, B, D], `layers` the state dictionaries of layers, h [B, L, D] zero where an episode begins."""
    h, y = h.copy(), x.copy()
    for t, b in np.ndindex(x.shape[:2]):
        if first[t, b]:
            h[b] = 0.0
        for i, p in enumerate(layers):
            n = layer_norm(y[t, b], p["norm.weight"], p["norm.bias"])
            z = sigmoid(p["gate.weight"] @ n + p["gate.bias"])
            h[b, i] = (1 - z) * h[b, i] + z * (p["candidate.weight"] @ n + p["candidate.bias"])
            u = y[t, b] + h[b, i]
            n = layer_norm(u, p["mlp_norm.weight"], p["mlp_norm.bias"])
            inner = np.maximum(p["mlp.0.weight"] @ n + p["mlp.0.bias"], 0.0)
            y[t, b] = u + p["mlp.2.weight"] @ inner + p["mlp.2.bias"]
    return y, h


# --- distributions --------------------------------------------------------------------------------


def gaussian_kl(mean0, cov0, mean1, cov1):
    """KL(N0 || N1) with full covariance matrices."""
    inverse = np.linalg.inv(cov1)
    d = mean1 - mean0
    log_det = np.linalg.slogdet(cov1)[1] - np.linalg.slogdet(cov0)[1]
    return 0.5 * (np.trace(inverse @ cov0) - len(d) + d @ inverse @ d + log_det)


def decoupled_mean(mean0, cov0, mean1):
    """V-MPO eq. 26: half the squared distance of the means under the old policy's precision."""
    d = mean1 - mean0
    return 0.5 * d @ np.linalg.inv(cov0) @ d


def decoupled_covariance(cov0, cov1):
    """V-MPO eq. 27: the rest of the KL with the mean held."""
    log_det = np.log(np.linalg.det(cov1) / np.linalg.det(cov0))
    return 0.5 * (np.trace(np.linalg.inv(cov1) @ cov0) - len(cov0) + log_det)


# --- PopArt statistics ----------------------------------------------------------------------------


def popart_statistics(batches, step_size):
    """Debiased moving mean and std after the given batches of valid targets; an empty batch is no update.

    The std is 1 until targets differ by more than rounding, and keeps its last value where they no longer do.
    """
    first = second = weight = mean = 0.0
    std = 1.0
    for targets in batches:
        if len(targets) == 0:
            continue
        targets = np.asarray(targets, dtype=np.float64)
        first = (1.0 - step_size) * first + step_size * targets.mean()
        second = (1.0 - step_size) * second + step_size * (targets**2).mean()
        weight = (1.0 - step_size) * weight + step_size
        mean, variance = first / weight, second / weight - (first / weight) ** 2
        if variance > 1e-12 * second / weight:
            std = float(np.sqrt(variance))
    return mean, std
