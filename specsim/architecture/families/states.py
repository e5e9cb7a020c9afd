"""Mixers with a state of constant size, made from their sizes: what each stores and remembers.

A short convolution over `kernel` tokens remembers the last `kernel - 1` inputs of every channel.
"""

from specsim.architecture.parts import Recurrent


def gated_delta_net(
    key_heads: int, value_heads: int, key_size: int, value_size: int, kernel: int
) -> Recurrent:
    """Gated DeltaNet (arXiv:2412.06464): a matrix of keys x values for each value head; a decay and
    a step size for each head; an output gate as wide as the values."""
    keys, values = key_heads * key_size, value_heads * value_size
    channels = 2 * keys + values
    return Recurrent(
        "gated DeltaNet",
        columns=channels + values + 2 * value_heads,
        width=values,
        state_elements=values * key_size,
        convolution_elements=channels * (kernel - 1),
        small_parameters=channels * kernel + 2 * value_heads + value_size,
        heads=key_heads,
    )


def kimi_delta(
    hidden: int, heads: int, size: int, kernel: int, *, full_decay: bool, full_gate: bool
) -> Recurrent:
    """Kimi Delta Attention (arXiv:2510.26692): a decay for each channel of the keys. Decay and
    output gate are made from the hidden state, each in full or through `size` elements."""
    width = heads * size
    through = [full_decay, full_gate].count(False)
    columns = 3 * width + heads + (2 - through) * width + through * size
    return Recurrent(
        "Kimi delta attention",
        columns=columns,
        width=width,
        state_elements=width * size,
        convolution_elements=3 * width * (kernel - 1),
        low_rank=((size, width),) * through,
        small_parameters=3 * width * kernel + width + heads + size,
        heads=heads,
    )


def lightning(heads: int, size: int, norms: int = 0) -> Recurrent:
    """Lightning attention (arXiv:2501.08313): linear attention with a fixed decay, an output gate
    and a norm of the output; `norms` elements in further norms."""
    width = heads * size
    return Recurrent(
        "lightning attention",
        columns=4 * width,
        width=width,
        state_elements=width * size,
        small_parameters=width + norms,
        heads=heads,
    )


def mamba(
    inner: int,
    state: int,
    rank: int,
    kernel: int,
    *,
    groups: int = 1,
    norms: bool = False,
    convolution_bias: bool = True,
    bias: bool = False,
) -> Recurrent:
    """Mamba (arXiv:2312.00752): `state` numbers for each of `inner` channels, whose step size is
    made through `rank` elements; `norms` over what the step is made of (Jamba)."""
    small = inner * (state + kernel + 2) + (inner if convolution_bias else 0)
    small += (rank + 2 * state if norms else 0) + (2 * inner if bias else 0)
    part = inner // groups
    return Recurrent(
        "Mamba",
        columns=2 * inner,
        width=inner,
        state_elements=inner * state,
        convolution_elements=inner * (kernel - 1),
        low_rank=((part, rank + 2 * state), (rank, part)) * groups,
        small_parameters=small,
        output_bias=bias,
        heads=inner,
    )


def mamba2(
    heads: int,
    head_size: int,
    state: int,
    groups: int,
    kernel: int,
    *,
    norm: bool = True,
    convolution_bias: bool = True,
    bias: bool = False,
    output_bias: bool = False,
) -> Recurrent:
    """Mamba-2 (arXiv:2405.21060): `state` numbers for each channel of each head; what reads and
    writes the state is made once for each of `groups`; a norm of the gated output."""
    inner = heads * head_size
    channels = inner + 2 * groups * state
    columns = inner + channels + heads
    small = channels * (kernel + (1 if convolution_bias else 0)) + 3 * heads
    small += (inner if norm else 0) + (columns if bias else 0)
    return Recurrent(
        "Mamba-2",
        columns=columns,
        width=inner,
        state_elements=inner * state,
        convolution_elements=channels * (kernel - 1),
        small_parameters=small,
        output_bias=output_bias,
        heads=heads,
    )


def gated_lru(width: int, heads: int, kernel: int) -> Recurrent:
    """RG-LRU (Griffin, arXiv:2402.19427): one number for each channel; two gates in blocks, one for
    each head; a bias on everything."""
    return Recurrent(
        "RG-LRU",
        columns=2 * width,
        width=width,
        state_elements=width,
        convolution_elements=width * (kernel - 1),
        low_rank=((width // heads, width),) * 2,
        small_parameters=width * (kernel + 1) + width + 2 * width + 2 * width,
        output_bias=True,
        heads=heads,
    )


def short_convolution(hidden: int, kernel: int, bias: bool) -> Recurrent:
    """LFM2's block: a convolution over a few tokens between two gates; no other state."""
    return Recurrent(
        "short convolution",
        columns=3 * hidden,
        width=hidden,
        state_elements=0,
        convolution_elements=hidden * (kernel - 1),
        small_parameters=hidden * kernel + (4 * hidden if bias else 0),
        output_bias=bias,
        heads=hidden,
    )


def rwkv4(hidden: int, width: int) -> Recurrent:
    """RWKV-4 (arXiv:2305.13048): a sum, a weight and a maximum for each channel, and the last
    inputs of the layer's two halves."""
    return Recurrent(
        "RWKV",
        columns=3 * width,
        width=width,
        state_elements=3 * width,
        convolution_elements=2 * hidden,
        small_parameters=2 * width + 3 * hidden,
        heads=width,
    )


def mlstm(heads: int, keys: int, values: int) -> Recurrent:
    """mLSTM (xLSTM, arXiv:2405.04517): a matrix, a vector and a number for each head; two gates for
    each head with a bias, an output gate and a norm as wide as the values."""
    return Recurrent(
        "mLSTM",
        columns=2 * keys + 2 * values + 2 * heads,
        width=values,
        state_elements=keys * values // heads + keys + heads,
        small_parameters=2 * heads + values,
        heads=heads,
    )
