"""Everything ``hffnet run`` can be told, as one TOML file that is checked before anything starts.

Paths are relative to the file's folder. Unknown keys are refused: a setting with a typing error must not silently
mean the default.
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.engines.target import target_from_text
from hffnet.runtime.engines.tensorrt import GpuSettings
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.field_of_view import TileSettings
from hffnet.runtime.gates import GateSettings
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.record import settings_sha256
from hffnet.runtime.smoothing import SmoothingSettings
from hffnet.runtime.sources.live_options import address_from_uri

_Seconds = Annotated[float, Field(gt=0.0, le=86400.0)]
_MAX_BYTES = 2**20


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class GpuChoice(_Strict):
    """``[engine.gpu]``: how a TensorRT engine runs; see `GpuSettings`."""

    slots: Annotated[int, Field(ge=1, le=8)] = 2
    graph: bool = True
    wait: Literal["auto", "spin", "block"] = "auto"
    keep_warm_s: _Seconds | None = None
    version_compatible: bool = False

    def settings(self) -> GpuSettings:
        """As engines take it."""
        return GpuSettings(
            num_slots=self.slots,
            graph=self.graph,
            wait=self.wait,
            keep_warm_seconds=self.keep_warm_s,
            version_compatible=self.version_compatible,
        )


class EngineChoice(_Strict):
    """``[engine]``: which engine, device and precision; how many threads it gets (all) and whether they are pinned."""

    name: str = "auto"
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    pin: bool | None = None
    gpu: GpuChoice = GpuChoice()

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name != "auto":
            try:
                target_from_text(name)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return name


class RecordsChoice(_Strict):
    """``[records]``: the audit trail, and what moves to ``archive`` (a folder) so that it stays small."""

    file: Path = Path("records.sqlite")
    archive: Path | None = None
    keep_days: Annotated[float, Field(ge=0.0, le=36_500.0)] | None = None
    max_mb: Annotated[float, Field(ge=1.0)] | None = None

    @model_validator(mode="after")
    def _has_archive(self) -> Self:
        if self.archive is None and (self.keep_days is not None or self.max_mb is not None):
            raise ValueError("keep_days and max_mb need archive, the folder that old rows move to")
        return self


class BarChoice(_Strict):
    """``[bar]``: rows of this instrument's info bar; ``force`` uses them whatever the frame says."""

    rows: Annotated[int, Field(ge=0, le=10_000)]
    force: bool = False


class WebhookChoice(_Strict):
    """``[sinks.webhook]``: POST results to ``url``, signed with the text in ``secret_file``."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    secret_file: Path
    timeout_s: _Seconds = 5.0


class MqttChoice(_Strict):
    """``[sinks.mqtt]``: publish results with QoS 1; ``password_file`` holds the password alone."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    topic: Annotated[str, Field(min_length=1, pattern=r"^[^+#\x00]*$")] = "hffnet/results"
    tls: bool = False
    user: str | None = None
    password_file: Path | None = None
    timeout_s: _Seconds = 5.0


class AnnotatedChoice(_Strict):
    """``[sinks.annotated]``: a PNG per classified file in ``folder``, with evidence, scale bar and decision."""

    folder: Path


class SinksChoice(_Strict):
    """``[sinks]``: where results go; ``jsonl = "-"`` is stdout, ``metrics`` a file in Prometheus' text format."""

    csv: Path | None = None
    jsonl: Path | None = None
    metrics: Path | None = None
    annotated: AnnotatedChoice | None = None
    webhook: WebhookChoice | None = None
    mqtt: MqttChoice | None = None


class RunSettings(_Strict):
    """The file.

    Attributes:
        bundle: the model.
        source: where frames come from (``hffnet.runtime.sources``).
        idle_exit_s: end when a watched folder had nothing new for so long; absent: never.
        watchdog_s: one frame may keep the engine busy for so long, then the process ends (code 4) and whoever
            supervises it starts it anew.
        engine, records, reading, gates, bar, tiles, smoothing, sinks, view: see their classes.
    """

    bundle: Path
    source: str
    idle_exit_s: Annotated[float, Field(ge=0.0)] | None = None
    watchdog_s: _Seconds | None = None
    engine: EngineChoice = EngineChoice()
    records: RecordsChoice = RecordsChoice()
    reading: ReadingSettings = ReadingSettings()
    gates: GateSettings = GateSettings()
    bar: BarChoice | None = None
    tiles: TileSettings | None = None
    smoothing: SmoothingSettings | None = None
    sinks: SinksChoice = SinksChoice()
    view: ViewChoice | None = None

    def public(self) -> Self:
        """The same without user name and password in the source, for records and people."""
        name = address_from_uri(self.source).name if self.source.startswith("rtsp") else self.source
        return self.model_copy(update={"source": name})

    def sha256(self) -> str:
        """Hash of everything that may change a result and is not in the bundle; "auto" stays "auto"."""
        resamples = self.gates.pixel_size == "resample"
        said = {
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "gates": self.gates.model_dump(exclude=set() if resamples else {"max_resample"}),
            "bar": self.bar.model_dump() if self.bar else None,
            "tiles": self.tiles.model_dump() if self.tiles else None,
        }
        # Settings that came later count only where they are used: records of earlier versions stay "done".
        if self.reading != ReadingSettings():
            said["reading"] = self.reading.model_dump()
        if self.smoothing is not None:
            said["smoothing"] = self.smoothing.model_dump()
        return settings_sha256(said)


def settings_of_run(engine: str, precision: str, tiles: TileSettings | None = None) -> str:
    """Hash of the settings of a run with defaults for everything else."""
    choice = EngineChoice.model_validate({"name": engine, "precision": precision})
    return RunSettings(bundle=Path(), source="", engine=choice, tiles=tiles).sha256()


def settings_from_toml(path: Path) -> RunSettings:
    """Read and check a settings file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or says something that cannot be; each fault is named.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); expected settings of hffnet run") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{path} has more than {_MAX_BYTES} bytes; expected settings of hffnet run")
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        # By way of JSON: strict, and yet a text may be a path.
        settings = RunSettings.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path} cannot be used: {faults}") from error
    return _beside(settings, path.absolute().parent)


def _beside(settings: RunSettings, folder: Path) -> RunSettings:
    """The same settings with every path made absolute."""

    def absolute(model: BaseModel) -> dict[str, object]:
        changed: dict[str, object] = {}
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, Path) and str(value) != "-":
                changed[name] = folder / value
            elif isinstance(value, BaseModel):
                changed[name] = value.model_copy(update=absolute(value))
        return changed

    return settings.model_copy(update=absolute(settings))
