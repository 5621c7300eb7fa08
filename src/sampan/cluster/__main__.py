"""`python -m sampan.cluster --directory DIR`: the cluster process."""

import gc
import sys

gc.disable()  # until the API answers: nothing made before is garbage, least of all what importing makes

from sampan.imports import without  # noqa: E402

with without("typing_extensions"):  # msgspec takes nothing from it that typing has not
    import msgspec  # noqa: F401

from sampan.cluster.process import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
