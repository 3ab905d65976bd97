"""prefeval: evaluation and diagnostics for preference-tuned language models.

Importing this package imports nothing heavy; the parts are
``prefeval.{harness,metrics,suites,reports,minitrainers}`` and ``prefeval.records``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefeval.harness.callback.callback import PrefevalCallback as PrefevalCallback

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``PrefevalCallback``, which imports transformers, when it is asked for."""
    if name == "PrefevalCallback":
        from prefeval.harness.callback.callback import PrefevalCallback

        return PrefevalCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
