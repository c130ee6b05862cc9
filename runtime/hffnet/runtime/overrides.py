"""A person's word on a result: accepted or decided otherwise, as a new row that refers to the old one.

Laboratories may not leave the decision on conformity to a model (ISO/IEC 17025; DAkkS and UKAS on AI): the model's
row stays as it is, the person's row stands beside it, and the latest row of a person counts.
"""

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import Record, RecordDraft, text_from_name

ACCEPT = "accept"


def draft_from_override(result: Record, *, person: str, decision: str, reason: str | None) -> RecordDraft:
    """The row to append.

    Args:
        result: what the person decided on.
        person: who.
        decision: ``accept``, or a class path such as ``mechanical/fatigue`` (any node of the tree).
        reason: why; may be left out only where the result is accepted.

    Raises:
        RecordError: the row is no result, nothing was answered that could be accepted, the class is unknown to the
            model, or person or reason is missing.
    """
    if result.kind != "result":
        of = f"; the result it is about is record {result.refers_to}" if result.refers_to else ""
        raise RecordError(f"record {result.seq} is an {result.kind}, only a result can be decided on{of}")
    if not person.strip():
        raise RecordError("a decision needs the name of the person; give --person NAME")
    path = tuple(result.answer) if decision == ACCEPT else tuple(part.strip() for part in decision.split("/"))
    if not path:
        raise RecordError(
            f"record {result.seq} answers {'unsure' if result.class_path else result.status}, which cannot be "
            "accepted; say what it is with --decision CLASS/PATH"
        )
    if decision != ACCEPT:
        if not (reason and reason.strip()):
            raise RecordError("a decision that differs from the model's needs a reason; give --reason TEXT")
        _check_classes(result, path)
    return RecordDraft(
        kind="override",
        status=None,
        reason=text_from_name(reason.strip()) if reason else None,
        name=result.name,
        input_path=result.input_path,
        input_sha256=result.input_sha256,
        class_path=path,
        answer=path,
        bundle_sha256=result.bundle_sha256,
        refers_to=result.seq,
        person=text_from_name(person.strip()),
        details={"decision": "accepted" if decision == ACCEPT else "overridden"},
    )


def _check_classes(result: Record, path: tuple[str, ...]) -> None:
    """Every part must be a class that the model scored; a frame that was not classified says nothing of classes."""
    levels = [set(shares) for shares in result.probabilities.values()]
    if not levels:
        if "" in path:
            raise RecordError(f"{'/'.join(path)!r} is no class path; expected something like mechanical/fatigue")
        return
    known = sorted(set().union(*levels))
    unknown = [part for part in path if part not in known]
    if unknown or len(path) > len(levels):
        raise RecordError(f"{'/'.join(path)!r} is not a path of the model's classes; it knows {', '.join(known)}")
