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
    ["coopsgd/host/native.c", "coopsgd/host/dense.c", "coopsgd/host/samples.c"],
    libraries=["m"],
    extra_compile_args=FLAGS,
    optional=True,
    py_limited_api=True,
)

setup(ext_modules=[KERNELS] if sys.platform.startswith("linux") else [])
