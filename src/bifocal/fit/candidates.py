"""Which encoders may become the expert of a modality: the one that is configured, or every one that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import plugins
from ..config import ExpertConfig
from ..contracts import EncodedAs
from ..errors import ConfigError, nearest

if TYPE_CHECKING:
    from ..contracts import Encoder, Modality

AUTO = "auto"
"""In the place of an encoder's name: all that read the modality are fitted, and the smallest that ties with the
best is taken."""


def candidates(config: ExpertConfig, modality_name: str, modality: Modality) -> list[ExpertConfig]:
    """The expert's settings with the encoder named and its ``tune``: one, or for ``auto`` one per encoder.

    Raises
    ------
    UnknownPlugin
        Where there is no encoder of that name.
    ConfigError
        Where it reads another modality, or lacks an option or ``tune``.
    """
    name = config.encoder or modality.encoder
    kind = modality.encoded_as if isinstance(modality, EncodedAs) else modality_name
    if name != AUTO:
        found: type[Encoder] = plugins.load("encoders", name)
        if found.modality != kind:
            raise ConfigError(
                f"experts.{modality_name}.encoder = {name!r} reads {found.modality}, not {kind}; "
                f"leave it out for {modality.encoder!r}"
            )
        plugins.options("encoder", name, config.options, found.settings)
        return [config.model_copy(update={"encoder": name}).with_tune(found.tunes)]
    known = {n: plugins.load("encoders", n) for n in plugins.names("encoders")}
    known = {n: found for n, found in known.items() if found.modality == kind}
    if not known:
        raise ConfigError(
            f"no encoder that comes with Bifocal reads {modality_name}: name one in experts.{modality_name}.encoder"
        )
    common = {
        option for option in config.options if all(option in found.settings.model_fields for found in known.values())
    }
    for unknown in config.options.keys() - known.keys() - common:
        raise ConfigError(
            f"experts.{modality_name}.options with encoder: auto holds what all encoders know, and the options of each "
            f"by its name, found {unknown!r}; {nearest(unknown, known)}"
        )
    if config.tune and not any(config.tune in found.tunes for found in known.values()):
        taken = ", ".join(sorted({tune for found in known.values() for tune in found.tunes}))
        raise ConfigError(f"no encoder of {modality_name} has tune: {config.tune}; they take {taken}: leave it out")
    rivals = []
    for n, found in known.items():
        own = {**{option: config.options[option] for option in common}, **config.options.get(n, {})}
        plugins.options("encoder", n, own, found.settings)
        tune = config.tune if config.tune in found.tunes else None
        rivals.append(config.model_copy(update={"encoder": n, "options": own, "tune": tune}).with_tune(found.tunes))
    return rivals
