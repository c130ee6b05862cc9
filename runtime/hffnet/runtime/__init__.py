"""A bundle and frames in, decisions and records out: what runs beside the microscope.

Public names are loaded on first use, so that ``import hffnet.runtime`` and ``hffnet --help`` stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hffnet.runtime.bundle import Bundle as Bundle
    from hffnet.runtime.bundle import open_bundle as open_bundle
    from hffnet.runtime.classifier import Classifier as Classifier
    from hffnet.runtime.classifier import Prediction as Prediction
    from hffnet.runtime.errors import HffnetError as HffnetError
    from hffnet.runtime.taxonomy import Taxonomy as Taxonomy

_HOME = {
    "Bundle": "bundle",
    "Classifier": "classifier",
    "HffnetError": "errors",
    "Prediction": "classifier",
    "Taxonomy": "taxonomy",
    "open_bundle": "bundle",
}
__all__ = ["Bundle", "Classifier", "HffnetError", "Prediction", "Taxonomy", "open_bundle"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
