"""The bundle's manifest: everything a runtime must know of a model, as one strict document.

COMPATIBILITY.md says which ``format_version`` which runtime reads, and for how long.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.taxonomy import Taxonomy

FORMAT_VERSION = 1

Precision = Literal["fp32", "fp16", "int8"]
Family = Literal["cpu", "tensorrt"]
"""``cpu``: float32 where not quantized. ``tensorrt``: float16 where not quantized; for both TensorRT flavours."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MemberName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)?$", max_length=120)
]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""Readers in other languages hold it in 64 bits."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Member(_Strict):
    """One file of the bundle, checked before it is parsed."""

    name: MemberName
    size: Annotated[int, Field(ge=0, le=2**31 - 1)]
    sha256: Sha256


class Graph(_Strict):
    """One ONNX graph: input ``frames`` uint8 (N, size, size), outputs ``logits`` and ``evidence``.

    Attributes:
        tolerance: greatest allowed difference to the reference logits of the test vectors, divided by the largest
            reference logit in magnitude; measured at export, with margin for other machines' arithmetic.
    """

    precision: Precision
    family: Family
    member: MemberName
    tolerance: Annotated[float, Field(gt=0.0, le=10.0)]


class Metrics(_Strict):
    """Scores of one precision on the held-out frames named in ``Provenance.evaluated_on``."""

    num_frames: Count
    hp: Share
    hr: Share
    hf1: Share
    fpa: Share
    tice: Share
    level_accuracy: tuple[Share, ...]


class Network(_Strict):
    """Which network it is, for people and records; the graph is what runs."""

    name: str
    recipe: str
    num_parameters: Count
    evidence_shape: tuple[Count, Count]


class Provenance(_Strict):
    """Where the model came from."""

    created_utc: str
    checkpoint_sha256: Sha256
    data_sha256: Sha256
    num_train_frames: Annotated[int, Field(ge=0, le=2**63 - 1)]
    evaluated_on: str
    tools: dict[str, str]


class Novelty(_Strict):
    """From where on a frame is unlike what the model knows (``hffnet.runtime.novelty``).

    Attributes:
        max_energy: largest energy that still is in distribution.
        quantile: share of held-out frames at or below it.
        num_frames: how many held-out frames it was found on.
    """

    max_energy: Annotated[float, Field(allow_inf_nan=False)]
    quantile: Share
    num_frames: Annotated[int, Field(ge=1)]


class Manifest(_Strict):
    """``manifest.json``; ``novelty`` is absent from bundles that have no such limit."""

    format_version: Literal[1] = 1
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    taxonomy: Taxonomy
    preprocess: PreprocessSpec
    decode: DecodeSpec
    network: Network
    graphs: Annotated[tuple[Graph, ...], Field(min_length=1)]
    metrics: dict[Precision, Metrics]
    pixel_size_um: tuple[float, float] | None
    novelty: Novelty | None = None
    provenance: Provenance
    members: tuple[Member, ...]

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Readers from before a key existed refuse it, so it is written only where it says something."""
        document: dict[str, object] = handler(self)
        if self.novelty is None:
            document.pop("novelty", None)
        return document

    @field_validator("format_version", mode="before")
    @classmethod
    def _really_a_number(cls, value: object) -> object:
        # Literal compares with ==, to which true and 1.0 are 1.
        if type(value) is not int:
            raise ValueError("expected a whole number")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        listed = [member.name for member in self.members]
        if len(set(listed)) != len(listed):
            raise ValueError("a member is listed twice")
        kinds = [(graph.precision, graph.family) for graph in self.graphs]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two graphs have the same precision and family")
        if len(self.decode.temperatures) != self.taxonomy.depth:
            raise ValueError(
                f"{len(self.decode.temperatures)} temperatures for a taxonomy of {self.taxonomy.depth} levels"
            )
        for precision, metrics in self.metrics.items():
            if len(metrics.level_accuracy) != self.taxonomy.depth:
                raise ValueError(f"metrics of {precision} do not have one accuracy per level")
        return self
