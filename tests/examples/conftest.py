"""What examples in Java need for their tests lies beside those of the server."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_server"))
