"""The package is there, or the run says that it is not."""

from tests.conftest import require


def test_the_package_is_built() -> None:
    try:
        import cmd_aeron
    except ModuleNotFoundError:
        cmd_aeron = None
    require("aeron", cmd_aeron is not None, "build packages/cmd-aeron (needs a Rust toolchain) and install its wheel")
    assert cmd_aeron.version() == "1.54.0"
