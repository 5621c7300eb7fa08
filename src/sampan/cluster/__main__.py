"""`python -m sampan.cluster --directory DIR`: the cluster process."""

import sys

from sampan.cluster.process import main

if __name__ == "__main__":
    sys.exit(main())
