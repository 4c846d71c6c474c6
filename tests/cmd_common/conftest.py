"""Helper modules lie beside the tests that use them."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import require

sys.path.insert(0, str(Path(__file__).parent))

HOW = "install cmd-native, which deploy/test.sh builds where a Rust toolchain is"


@pytest.fixture(scope="module", params=["pure", "native"])
def either_book(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests over the order book in Python and over the one in Rust."""
    from cmd_common import multibook
    from cmd_common.orderbook import PureOrderBook

    kind: type = PureOrderBook
    if request.param == "native":
        require("native", find_spec("cmd_native") is not None, HOW)
        from cmd_common._native_book import NativeOrderBook as kind  # type: ignore[no-redef]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multibook, "OrderBook", kind)
        if hasattr(request.module, "OrderBook"):
            patch.setattr(request.module, "OrderBook", kind)
        yield
