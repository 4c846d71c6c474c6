"""The modules of the fuzz targets lie beside their tests; so do the venues' worlds of the simulation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "simulation"))
