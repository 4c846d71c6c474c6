"""Helper modules lie beside the tests that use them."""
