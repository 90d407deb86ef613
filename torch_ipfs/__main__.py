"""``python -m torch_ipfs``: the command torch-ipfs."""

import sys

from torch_ipfs.cli.main import main

sys.exit(main())
