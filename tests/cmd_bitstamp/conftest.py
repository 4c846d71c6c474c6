"""Helper modules lie beside the tests that use them; the damage of fuzz tests beside those of Gemini."""

import sys
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "cmd_gemini")]
