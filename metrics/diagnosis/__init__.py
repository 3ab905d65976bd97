"""From symptoms to a cause: rules that are data, and the engine that applies them."""

from __future__ import annotations

from prefeval.metrics.diagnosis import (
    behaviour_rules,
    engine,
    measurement_rules,
    online_rules,
    optimisation_rules,
    setup_rules,
)
from prefeval.metrics.diagnosis.signals import SPECS as SPECS
from prefeval.metrics.diagnosis.terms import SEVERITIES as SEVERITIES
from prefeval.metrics.diagnosis.terms import Cause, Diagnosis, Signals

CAUSES: tuple[Cause, ...] = (
    *setup_rules.CAUSES,
    *optimisation_rules.CAUSES,
    *online_rules.CAUSES,
    *behaviour_rules.CAUSES,
    *measurement_rules.CAUSES,
)
"""Every known cause: set-up, optimisation, behaviour, measurement."""

UNKNOWN = measurement_rules.UNKNOWN


def diagnose(signals: Signals, *, method: str = "") -> Diagnosis:
    """What the signals say, most likely cause first; see ``engine.diagnose``."""
    return engine.diagnose(signals, CAUSES, SPECS, method=method, unknown=UNKNOWN)
