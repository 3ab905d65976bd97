"""prefeval: evaluation and diagnostics for preference-tuned language models.

Importing this package imports nothing heavy; the parts are
``prefeval.{harness,metrics,suites,reports,minitrainers}`` and ``prefeval.records``.
"""

__version__ = "0.1.0"
