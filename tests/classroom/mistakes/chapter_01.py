"""Typical wrong answers to assignment 1 (see tests/classroom/test_assignments.py)."""

WRITTEN_IN = {"plotted_states": "draw_states"}

WRONG = [
    ("preactivation", "W_hh.T", "W_hh", 2, "its transpose is missing"),
    ("preactivation", " + b_h", "", 2, "the bias is missing"),
    ("step_backward", "np.tanh(a_t) ** 2", "np.tanh(np.tanh(a_t)) ** 2", 2, "it belongs at a_t"),
    ("step_backward", "d_a_t @ W_hh,", "d_a_t @ W_hh.T,", 4, "d_h_prev"),
    ("step_backward", "d_a_t.sum(axis=0)", "d_a_t[0]", 4, "d_b_h"),
    ("hidden_sequence", "(x_t, h_t,", "(x_t, h_0,", 2, "the state is not carried on"),
    ("hidden_sequence", "h_t, hs = h_0, []", "h_t, hs = 0 * h_0, []", 3, "it starts from zero"),
    ("hidden_sequence", "np.stack(hs)", "hs[-1]", 2, "only the last state"),
    ("hidden_sequence", "np.stack(hs)", "np.stack(hs, axis=1)", 0, "shape"),
    ("overfit", "both[:-1].T", "both[:-1]", 0, ""),
    ("overfit", "both[-1]", "0 * both[-1]", 1, "a perfect fit"),
    ("scale", "np.abs(np.linalg.eigvals(W)).max()", "np.linalg.norm(W, 2)", 1, "the norm is scaled"),
    ("hiding_matrix", "A + A.T", "np.eye(H)", 1, "not diagonal"),
    ("hiding_matrix", "A + A.T", "A", 0, "the mistake is hidden"),
    ("plotted_states", "np.arange(1, len(hs) + 1), hs", "hs", 1, "lines"),
    ("plotted_states", ', ylabel="$h_t$"', "", 1, "named axes"),
]
