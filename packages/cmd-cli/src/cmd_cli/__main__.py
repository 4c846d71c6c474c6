"""``python -m cmd_cli`` is the same as ``cmd-cli``."""

from .main import entry

entry()
