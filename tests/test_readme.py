"""The README's Python example runs as printed."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_python_example_runs_as_printed():
    """The first Python block, on kernels of two published shapes; (14, 14, 3, 384) has 204 exactly null directions."""
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    for kernel_size, null in ((16, 384), (14, 204)):
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(kernel_size, kernel_size, 3, 384)).astype(np.float32)
        images = rng.uniform(size=(2, 224, 224, 3)).astype(np.float32)
        scope = {"kernel": kernel, "images": images}
        exec(block.replace("(16, 16)", f"({kernel_size}, {kernel_size})"), scope)  # noqa: S102
        assert scope["space"].num_directions == null
        assert bool(scope["certificate"].holds.all())
        np.testing.assert_allclose(scope["certificate"].psnr_db, 14.0, atol=1e-3)
