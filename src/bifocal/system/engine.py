"""What computes: from the values of posts to the logits of every model; a System does not know by what means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..example import Evidence
    from ..models.windows import Windows


class Engine(Protocol):
    """Runs a run's models. Several threads may call it at once."""

    name: str
    """As ``--engine`` names it: ``torch``, ``onnx-int8``, ..."""
    main: str
    """The model whose word counts: the fusion, or the only expert."""
    columns: frozenset[str]
    """The columns of a record that the experts read."""

    def check(self, modality: str, value: Any) -> None:
        """Refuse a value that training cannot have meant. Raises `DataError`."""

    def windows(self, modality: str, value: Any) -> Windows | None:
        """The windows that are read of a text, and whether they hold all of it; None where values have no windows."""

    def evidence(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Evidence]:
        """Run each encoder once over the parts that are there; modality -> Evidence of all rows.

        The arrays in it are the engine's own: torch's tensors, or numpy's where there is no torch. Of several labels
        it is the first one's, with that of the others in `Evidence.further`.
        """

    def logits(self, evidence: Mapping[str, Evidence], label: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Model -> ``[n, C]``, of every expert and, where there are several, of the fusion; no encoder runs.

        ``label``: one of `Evidence.further`; None = the first.
        """


def logits_by_label(
    engine: Engine, evidence: Mapping[str, Evidence], labels: Iterable[str]
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Label -> what `Engine.logits` gives of it; the run's first label comes first."""
    first, *further = labels
    return {first: engine.logits(evidence), **{label: engine.logits(evidence, label) for label in further}}
