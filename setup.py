"""The one part of the package that is compiled, where a C compiler is found; without it, torch does the same more slowly."""

import sys

from setuptools import Extension, setup

FLAGS = [
    "-O3",
    "-g0",
    "-std=gnu99",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wno-psabi",
]
KERNELS = Extension(
    "coopsgd.host._native",
    [f"coopsgd/host/{name}.c" for name in ("native", "dense", "conv", "samples", "meet", "rounds")],
    depends=["coopsgd/host/structs.h", "coopsgd/host/widths.h", "coopsgd/host/linear.h"],
    libraries=["m"],
    extra_compile_args=FLAGS,
    optional=True,
    py_limited_api=True,
)

setup(ext_modules=[KERNELS] if sys.platform.startswith("linux") else [])
