"""Few, small probes, for tests that ask whether a calibration is made and used, not how good it is:
that is for tests/reference/test_probes.py. For processes and kernels that end afterwards."""


def install() -> None:
    """Let the probes of this process be few and small."""
    from reference.lab import drift
    from reference.lab.probes import attention, products, stages

    products.WideProduct.SIDE, attention.READ_BYTES, drift.SIDE_ELSEWHERE = 256, 4e6, 512
    products.STACKS, products.FORMATS = ((64, 2), (128, 1), (192, 2)), ()
    stages.PAIRS = stages.PAIRS[:1]
