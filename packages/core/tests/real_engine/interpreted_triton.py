"""Triton without a device: a backend that lets vLLM's CPU build run the kernels of its GPU model runner in Python.

With `TRITON_INTERPRET=1` Triton computes its kernels with NumPy. vLLM takes them only where it finds a Triton backend
named `cpu`, which the wheel on PyPI lacks; this one has the name and nothing else. A few tokens a second: for tests.
"""

from __future__ import annotations

from pathlib import Path

_DRIVER = """
from triton.backends.driver import DriverBase

class Driver(DriverBase):
    @classmethod
    def is_active(cls):
        return False

Driver.__abstractmethods__ = frozenset()
"""
_COMPILER = """
from triton.backends.compiler import BaseBackend

class Backend(BaseBackend):
    pass

Backend.__abstractmethods__ = frozenset()
"""
_ENTRY_POINTS = """
[triton.backends]
cpu = interpreted_triton
[vllm.general_plugins]
interpreted_masks = interpreted_triton.masks:install
"""
# The interpreter wants a mask of booleans where the compiler takes any integers: the kernel of grammars gives it those.
_MASKS = """
def install():
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    theirs = Builder.create_masked_store

    def create_masked_store(self, ptrs, value, mask, *rest):
        mask.data = mask.data.astype(bool)
        return theirs(self, ptrs, value, mask, *rest)

    Builder.create_masked_store = create_masked_store
"""


def write(folder: Path) -> Path:
    """Write the backend as a package that Python finds with `folder` on its path; return `folder`."""
    package, info = folder / "interpreted_triton", folder / "interpreted_triton-0.dist-info"
    for made in (package, info):
        made.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "driver.py").write_text(_DRIVER)
    (package / "compiler.py").write_text(_COMPILER)
    (package / "masks.py").write_text(_MASKS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: interpreted-triton\nVersion: 0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    return folder
