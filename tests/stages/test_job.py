"""Opening a job: what it makes does not depend on the machine's number of cores."""

import pathlib

from tests import jobs

_PRINT = """
import hashlib, pathlib, sys
from ne_jax.config import checked, default
from ne_jax.stages.job import open_job
config = default()
config.update_from_flattened_dict({"data.limit": 4, "recode.secret_file": sys.argv[1]})
job = open_job(checked(config), pathlib.Path(sys.argv[2]))
print(hashlib.sha256(bytes(memoryview(job.space.basis))).hexdigest())
"""


def test_directions_do_not_depend_on_threads(tmp_path: pathlib.Path):
    """Nor do the files: LAPACK is held to one thread, which only works for a library that is loaded by then."""
    secret = tmp_path / "secret.key"
    secret.write_text(jobs.SECRET)
    made = []
    for threads in ("1", "3"):
        done = jobs.run(["python", "-c", _PRINT, str(secret), str(tmp_path / threads)], OPENBLAS_NUM_THREADS=threads)
        assert done.returncode == 0, done.stderr
        made.append(done.stdout)
    assert made[0] == made[1]
