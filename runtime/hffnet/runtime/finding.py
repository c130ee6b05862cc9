"""One fact that ``hffnet doctor`` found, with what to do about it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["ok", "note", "problem", "missing"]
"""``problem`` costs speed or comfort; ``missing`` means that what was asked for cannot be done here."""


class Finding(BaseModel):
    """One fact; ``fix`` says what to do where the state is not ``ok``."""

    model_config = ConfigDict(frozen=True)

    section: str
    name: str
    value: str
    state: State = "ok"
    fix: str | None = None
