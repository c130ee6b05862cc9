"""The optional compiled forms of ``preprocess`` and ``decode``: used where they are built, never required.

``HFFNET_NATIVE=1 pip install .`` builds them from runtime/cpp; ``HFFNET_NATIVE=0`` in the environment of a run switches
them off. Both forms answer alike: the input within one grey level, paths equal, probabilities within 1e-6.
"""

import os
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from hffnet.runtime.taxonomy import Taxonomy

if TYPE_CHECKING:
    from hffnet.runtime._native import Decoder

VARIABLE = "HFFNET_NATIVE"
INTERFACE = 1
"""Of the module this code was written for; one that was built from other sources is not used."""
_NAME = "hffnet.runtime._native"


def find_native() -> tuple[ModuleType | None, str]:
    """The extension, or None and why it is not used."""
    if (wish := os.environ.get(VARIABLE, "")).lower() in {"0", "off", "no", "false"}:
        return None, f"switched off by {VARIABLE}={wish}"
    try:
        module = import_module(_NAME)
    except ModuleNotFoundError as error:
        return None, "not built" if error.name == _NAME else f"built, but cannot be loaded: {error}"
    except ImportError as error:
        return None, f"built, but cannot be loaded: {error}"
    found = getattr(module, "INTERFACE", None)
    if found != INTERFACE:
        return None, f"built from other sources (interface {found}, expected {INTERFACE})"
    return module, ""


MODULE, REASON = find_native()


@lru_cache(maxsize=8)
def decoder(taxonomy: Taxonomy, temperatures: tuple[float, ...], min_confidence: float | None) -> "Decoder":
    """The compiled decoder of a class tree; kept, because making it costs more than a decision."""
    assert MODULE is not None
    levels = [(level.name, list(level.classes), list(level.parents)) for level in taxonomy.levels]
    made: Decoder = MODULE.Decoder(levels, list(temperatures), min_confidence)
    return made
