"""`python -m sampan.cluster --directory DIR`: the cluster process."""

import gc
import sys

gc.disable()  # until the API answers: nothing made before is garbage, least of all what importing makes

from sampan.cluster.start import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
