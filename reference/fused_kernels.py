"""The Triton kernels of `fused`: what lies between the products of a layer, and products of few
rows.

Letters: R rows, which are the tokens of all sequences; N outputs and K inputs of a matrix; H query
heads, KV key-value heads, D head size, S slots of a cache.

A decode step waits for the bytes of the weights, so each kernel has to keep many loads in flight,
and the memory must not idle between two kernels. With PDL (programmatic dependent launch, from
compute capability 9.0) a kernel starts while the one before it still runs, asks for its first
weights, and waits only then. Every kernel waits before it touches anything that another kernel
writes or reads. So when a kernel has ended, all kernels before it have ended too.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# Arguments of attention whose value is not compiled in: so a kernel is compiled once for all
# batches, windows and numbers of tokens. A specialisation for 1 would be a kernel more.
SIZES = [
    "T", "H", "KV", "PARTS", "capacity", "known", "blocks",
    "angle_stride", "angle_batch", "slot_stride", "slot_batch", "end_stride", "end_batch",
]  # fmt: skip


@triton.jit
def product_of_one(
    x, weight, norm, residual, out, eps, rows,
    N: tl.constexpr, K: tl.constexpr,
    NORM: tl.constexpr, SWIGLU: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out (1, N) = norm(x) (1, K) @ weight.T; for SWIGLU, weight is (2N, K) and silu(gate) * up is
    written. The mean square of the norm is summed next to the products: x is read once.

    Sums of eight neighbouring products stay within a thread. The next block of weights is asked for
    before the present one is used. `rows`, ROWS, WARPS and STAGES are those of `product_of_few`.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    at = weight + n[:, None].to(tl.int64) * K + k[None, :]
    inside = (n < N)[:, None]
    if PDL:
        gdc_launch_dependents()
    there = inside & (k < K)[None, :]
    w = tl.load(at, mask=there, other=0.0, eviction_policy="evict_first")
    if SWIGLU:
        u = tl.load(at + N * K, mask=there, other=0.0, eviction_policy="evict_first")
    if PDL:
        gdc_wait()
    squares = tl.zeros([BLOCK_K // 8], tl.float32)
    first = tl.zeros([BLOCK_N, BLOCK_K // 8], tl.float32)
    second = tl.zeros([BLOCK_N, BLOCK_K // 8], tl.float32)
    for start in tl.range(0, K, BLOCK_K):
        after = start + BLOCK_K
        there = inside & (after + k < K)[None, :]
        next_w = tl.load(at + after, mask=there, other=0.0, eviction_policy="evict_first")
        if SWIGLU:
            up = at + N * K + after
            next_u = tl.load(up, mask=there, other=0.0, eviction_policy="evict_first")
        xs = tl.load(x + start + k, mask=start + k < K, other=0.0).to(tl.float32)
        if NORM:
            squares += tl.sum(tl.reshape(xs * xs, [BLOCK_K // 8, 8]), 1)
            xs *= tl.load(norm + start + k, mask=start + k < K, other=0.0).to(tl.float32)
        products = w.to(tl.float32) * xs[None, :]
        first += tl.sum(tl.reshape(products, [BLOCK_N, BLOCK_K // 8, 8]), 2)
        w = next_w
        if SWIGLU:
            products = u.to(tl.float32) * xs[None, :]
            second += tl.sum(tl.reshape(products, [BLOCK_N, BLOCK_K // 8, 8]), 2)
            u = next_u
    y = tl.sum(first, 1)
    z = tl.sum(second, 1)
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        y, z = y * scale, z * scale
    if SWIGLU:
        y = y * tl.sigmoid(y) * z
    if RESIDUAL:
        y += tl.load(residual + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def product_of_few(
    x, weight, norm, residual, out, eps, rows,
    N: tl.constexpr, K: tl.constexpr,
    NORM: tl.constexpr, SWIGLU: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """The same for up to ROWS rows, on tensor cores: out (R, N) = norm(x) (R, K) @ weight.T.

    Each warp multiplies its own slice of a block of K, as a product of a batch, and the slices are
    added at the end: so a block of few outputs has work for all warps. With STAGES = 1 the next
    block of weights is kept in registers; with more, STAGES blocks are in shared memory.
    """
    SLICE: tl.constexpr = BLOCK_K // WARPS
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, WARPS)[:, None] * SLICE + tl.arange(0, SLICE)[None, :]  # (WARPS, SLICE)
    r = tl.arange(0, ROWS)
    at = weight + (n[:, None].to(tl.int64) * K)[None, :, :] + k[:, None, :]
    inside = (n < N)[None, :, None]
    row = x + (r * K)[None, None, :] + k[:, :, None]  # (WARPS, SLICE, ROWS)
    if PDL:
        gdc_launch_dependents()
    if STAGES == 1:
        there = inside & (k < K)[:, None, :]
        w = tl.load(at, mask=there, other=0.0, eviction_policy="evict_first")
        if SWIGLU:
            u = tl.load(at + N * K, mask=there, other=0.0, eviction_policy="evict_first")
    elif PDL:
        lines = tl.minimum(tl.arange(0, 2 * BLOCK_K // 64) * 64, K - 1)[None, :]
        line = weight + tl.minimum(n, N - 1)[:, None].to(tl.int64) * K + lines
        prefetch(line)
        if SWIGLU:
            prefetch(line + N * K)
    if PDL:
        gdc_wait()
    squares = tl.zeros([WARPS, SLICE // 8, ROWS], tl.float32)
    first = tl.zeros([WARPS, BLOCK_N, ROWS], tl.float32)
    second = tl.zeros([WARPS, BLOCK_N, ROWS], tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        block = start
        if STAGES == 1:
            block = start + BLOCK_K
        there = inside & (block + k < K)[:, None, :]
        loaded = tl.load(at + block, mask=there, other=0.0, eviction_policy="evict_first")
        if STAGES > 1:
            w = loaded
        if SWIGLU:
            up = at + N * K + block
            loaded_up = tl.load(up, mask=there, other=0.0, eviction_policy="evict_first")
            if STAGES > 1:
                u = loaded_up
        given = (r < rows)[None, None, :] & (start + k < K)[:, :, None]
        xs = tl.load(row + start, mask=given, other=0.0)
        if NORM:
            wide = xs.to(tl.float32)
            squares += tl.sum(tl.reshape(wide * wide, [WARPS, SLICE // 8, 8, ROWS]), 2)
            gain = tl.load(norm + start + k, mask=start + k < K, other=0.0)
            xs = (wide * gain.to(tl.float32)[:, :, None]).to(xs.dtype)
        first = tl.dot(w, xs, first)
        if STAGES == 1:
            w = loaded
        if SWIGLU:
            second = tl.dot(u, xs, second)
            if STAGES == 1:
                u = loaded_up
    y = tl.sum(first, 0)  # (BLOCK_N, ROWS)
    z = tl.sum(second, 0)
    if NORM:
        scale = tl.rsqrt(tl.sum(tl.sum(squares, 1), 0) / K + eps)[None, :]
        y, z = y * scale, z * scale
    if SWIGLU:
        y = y * tl.sigmoid(y) * z
    to = r[None, :] * N + n[:, None]
    asked = (n < N)[:, None] & (r < rows)[None, :]
    if RESIDUAL:
        y += tl.load(residual + to, mask=asked, other=0.0).to(tl.float32)
    tl.store(out + to, y.to(out.dtype.element_ty), mask=asked)


@triton.jit
def prefetch(lines):
    """Ask for the 128 bytes at each of `lines`, to come into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [lines.to(tl.int64)],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def add_and_normalise(
    x, change, weight, sums, out, eps, size, C: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row: sums = x + change, if ADD, and out = RMSNorm of the sum, times `weight`, (R, size)
    each. C is `size` or more."""
    c = tl.arange(0, C)
    there, at = c < size, tl.program_id(0).to(tl.int64) * size + c
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    total = tl.load(x + at, mask=there, other=0.0)
    if ADD:
        more = tl.load(change + at, mask=there, other=0.0)
        total = (total.to(tl.float32) + more.to(tl.float32)).to(total.dtype)
        tl.store(sums + at, total, mask=there)
    wide = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    gain = tl.load(weight + c, mask=there, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * scale * gain).to(out.dtype.element_ty), mask=there)


@triton.jit
def swiglu(gate_up, out, size, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """A part of one row of silu(gate) * up, (R, size), of the halves of `gate_up`, (R, 2 size)."""
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = n < size
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = gate_up + row * 2 * size + n
    gate = tl.load(at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(at + size, mask=there, other=0.0).to(tl.float32)
    made = gate * tl.sigmoid(gate) * up
    tl.store(out + row * size + n, made.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=SIZES)
def rotate_and_write(
    qkv, cos, sin, slots, query_norm, key_norm, keys, values, eps,
    capacity, angle_stride, angle_batch, slot_stride, slot_batch,
    T, H, KV, D: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token and one head of `qkv` (R, (H + 2 KV) * D): a query is rotated in place, a key is
    rotated into its slot of the cache (B, S, KV, D), a value is copied there. NORM: queries and
    keys are normalised first. Half of each head, and of each row of `cos` and `sin`, is D // 2."""
    token, head = tl.program_id(0), tl.program_id(1)
    b, t = token // T, token % T
    half = tl.arange(0, D // 2)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = qkv + (token * (H + 2 * KV) + head) * D + half
    one, two = tl.load(at).to(tl.float32), tl.load(at + D // 2).to(tl.float32)
    if head < H + KV:
        if NORM:
            gains = query_norm if head < H else key_norm
            scale = tl.rsqrt((tl.sum(one * one, 0) + tl.sum(two * two, 0)) / D + eps)
            one *= scale * tl.load(gains + half).to(tl.float32)
            two *= scale * tl.load(gains + D // 2 + half).to(tl.float32)
        angle = b * angle_batch + t * angle_stride + D // 2 + half  # sines of that half are plain
        c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
        one, two = one * c - two * s, two * c + one * s
    if head < H:
        tl.store(at, one.to(qkv.dtype.element_ty))
        tl.store(at + D // 2, two.to(qkv.dtype.element_ty))
    else:
        slot = b.to(tl.int64) * capacity + tl.load(slots + b * slot_batch + t * slot_stride)
        to = (slot * KV + (head - H) % KV) * D + half
        cache = keys if head < H + KV else values
        tl.store(cache + to, one.to(keys.dtype.element_ty))
        tl.store(cache + to + D // 2, two.to(keys.dtype.element_ty))


@triton.jit(do_not_specialize=SIZES)
def attend_part(
    qkv, ends, nodes, keys, values, parts, sums, out, scale, capacity, end_stride, end_batch, known,
    blocks, T, H, KV, PARTS, D: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
    TREE: tl.constexpr, WHOLE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One sequence, one key-value head, one of `blocks` blocks of R rows (the G = H / KV queries of
    each token, filled up), and one of PARTS parts of the slots that they see: nothing beyond these
    is read. A row sees the slots up to its end; in a TREE those before its end, and of the `known`
    slots from there on those whose bits are set in `nodes` (B, T, W), 64 to a word. Writes what the
    rows make of this part, (R, D), and their maxima and sums of exponentials; or, if it is the
    WHOLE, what they have looked up, to `out` (B T, H * D). BLOCK is at most 64."""
    b, part = tl.program_id(0), tl.program_id(2)
    head, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    G = H // KV
    r = block * R + tl.arange(0, R)
    t, g = r // G, r % G
    valid = r < T * G
    d = tl.arange(0, D)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    end_of = ends + b * end_batch + t * end_stride
    last = tl.load(end_of, mask=valid, other=-1).to(tl.int32)  # each row sees all slots up to it
    if TREE:
        last -= 1
    at = qkv + ((b * T + t) * (H + 2 * KV) + head * G + g)[:, None] * D + d[None, :]
    q = tl.load(at, mask=valid[:, None], other=0.0)
    length = tl.max(last, 0) + 1 + known
    each = tl.cdiv(tl.cdiv(length, PARTS), BLOCK) * BLOCK
    begin, end = part * each, tl.minimum((part + 1) * each, length)
    best = tl.full([R], -1e30, tl.float32)
    total = tl.zeros([R], tl.float32)
    mixed = tl.zeros([R, D], tl.float32)
    base = (b.to(tl.int64) * capacity * KV + head) * D
    words = tl.cdiv(known, 64)
    row_of_words = nodes + (b * T + t) * words
    for start in tl.range(begin, end, BLOCK):
        s = start + tl.arange(0, BLOCK)
        inside = s < end
        offsets = base + (s.to(tl.int64) * KV * D)[:, None] + d[None, :]
        k = tl.load(keys + offsets, mask=inside[:, None], other=0.0)
        v = tl.load(values + offsets, mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        seen = s[None, :] <= last[:, None]
        if TREE:
            # bits from that of slot `start` on, which may lie in two words
            bit = start - last - 1
            word, shift = bit >> 6, (bit & 63).to(tl.uint64)
            low = tl.load(row_of_words + word, mask=valid & (word >= 0) & (word < words), other=0)
            word += 1
            high = tl.load(row_of_words + word, mask=valid & (word >= 0) & (word < words), other=0)
            bits = low.to(tl.uint64) >> shift | high.to(tl.uint64) << 1 << 63 - shift
            seen = seen | (bits[:, None] >> (s - start)[None, :].to(tl.uint64) & 1 == 1)
        seen = seen & inside[None, :]
        scores = tl.where(seen, scores, -1e30)
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
        fade = tl.exp(best - higher)
        total = total * fade + tl.sum(weights, 1)
        mixed = mixed * fade[:, None] + tl.dot(weights.to(v.dtype), v)
        best = higher
    if WHOLE:
        at = out + ((b * T + t) * H + head * G + g)[:, None] * D + d[None, :]
        mixed = mixed / tl.where(valid, total, 1.0)[:, None]
        tl.store(at, mixed.to(out.dtype.element_ty), mask=valid[:, None])
    else:
        slot = ((b * KV + head) * PARTS + part) * R * blocks + r
        tl.store(parts + slot[:, None] * D + d[None, :], mixed)
        tl.store(sums + slot * 2, best)
        tl.store(sums + slot * 2 + 1, total)


@triton.jit(do_not_specialize=["T", "H", "KV", "R"])
def put_together(
    parts, sums, out, T, H, KV, R, D: tl.constexpr, PARTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The parts of one token and one head, weighted by their shares of the sum of exponentials;
    out is (B T, H * D)."""
    token, h = tl.program_id(0), tl.program_id(1)
    G = H // KV
    b, t = token // T, token % T
    p, d = tl.arange(0, PARTS), tl.arange(0, D)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    slot = ((b * KV + h // G) * PARTS + p) * R + t * G + h % G
    best, total = tl.load(sums + slot * 2), tl.load(sums + slot * 2 + 1)
    share = tl.exp(best - tl.max(best, 0))
    mixed = tl.sum(tl.load(parts + slot[:, None] * D + d[None, :]) * share[:, None], 0)
    mixed = mixed / tl.sum(total * share, 0)
    tl.store(out + (token * H + h) * D + d, mixed.to(out.dtype.element_ty))
