"""Reads pictures with a transformers image classifier: SigLIP, MobileNetV2, or a tiny SigLIP trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pydantic import Field
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel, SiglipConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from ...config import Strict
from ...scale.threads import in_order
from ..exportable import Exportable
from ..hf import HfTokenEncoder, Traced

SIDE = 64
"""Side in pixels of the pictures that the tiny model reads."""
CPU_BATCH = 4
"""Pictures at a time on a CPU, at most: more fall out of its caches. With the channels last, MobileNetV2 takes 12 ms a
picture so, and 46 ms in batches of 32 with the channels first (one thread, one run); a transformer is indifferent."""


class Options(Strict):
    """Options under ``experts.image.options``: how pictures are varied in training; 0 and false switch off."""

    flip: bool = True
    """Mirror half of the pictures. This mirrors drawn text too: switch it off where the words in a picture matter."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Brightness, contrast and saturation are scaled by up to this share, up or down."""
    crop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Up to this share of each side is cut away, at a random place."""


class HfImage(HfTokenEncoder):
    """A vision expert on any transformers model with an image classification head; pictures are PIL RGB images."""

    plugin = "hf_image"
    modality = "image"
    auto = AutoModelForImageClassification
    base = "google/siglip-base-patch16-384"
    settings = Options

    @staticmethod
    def load_processor(where: str) -> Any:
        return AutoImageProcessor.from_pretrained(where, backend="pil", trust_remote_code=False)

    @classmethod
    def known_configuration(cls, model: str, options: Options) -> SiglipConfig:
        if model == "tiny":
            size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
            # The text half of a SigLIP configuration is not built; small numbers keep it from promising a large one.
            text = {**size, "vocab_size": 2, "bos_token_id": 0, "eos_token_id": 1}
            vision = {**size, "image_size": SIDE, "patch_size": 8, "vision_use_head": False}
            return SiglipConfig(vision_config=vision, text_config=text)
        return SiglipConfig(vision_config={"image_size": 384, "patch_size": 16})

    @classmethod
    def tiny_processor(cls, options: Options, values: Sequence[Image.Image]) -> SiglipImageProcessorPil:
        return SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})

    @classmethod
    def largest_input(cls, model: PreTrainedModel, options: Options) -> dict[str, Tensor]:
        side = getattr(model.config, "vision_config", model.config).image_size
        return {"pixel_values": torch.zeros(1, 3, side, side)}

    def inputs(self, values: Sequence[Image.Image]) -> dict[str, Tensor]:
        pixels = self.processor(images=list(values), return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels.contiguous(memory_format=torch.channels_last)}

    def batches(self, values: Sequence[Image.Image]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Pictures are read and prepared in threads, a few ahead of the model that waits for them."""
        ready = in_order(lambda row: self.inputs([values[row]])["pixel_values"], range(len(values)))
        size = self.expert.encode_batch_size
        if self.classifier.head.weight.device.type == "cpu":
            size = min(size, CPU_BATCH)
        for start in range(0, len(values), size):
            rows = list(range(start, min(start + size, len(values))))
            yield rows, {"pixel_values": torch.cat(list(islice(ready, len(rows))))}

    def preprocessing(self) -> Any:
        return self.processor.to_dict()

    def exportable(self) -> Exportable:
        inputs = self.inputs([Image.new("RGB", (384, 384), colour) for colour in ("red", "blue")])
        inputs = {name: tensor.contiguous() for name, tensor in inputs.items()}
        axes = dict.fromkeys(inputs, ("batch", None, None, None))
        module = Traced(self.classifier, list(inputs), self.head)
        return Exportable(module, inputs, axes, "pixels", self.processor.to_dict(), self.head)

    def augment(self, value: Image.Image, seed: Sequence[int]) -> Image.Image:
        """The picture cropped, mirrored and recoloured at random, at the size the processor makes of it."""
        rng = np.random.default_rng(seed)
        options: Options = self.options
        width, height = value.size
        kept_w, kept_h = (side * (1 - options.crop * rng.random()) for side in (width, height))
        left, top = (width - kept_w) * rng.random(), (height - kept_h) * rng.random()
        value = value.resize(
            self._target(value.size), Image.Resampling.BICUBIC, box=(left, top, left + kept_w, top + kept_h)
        )
        if options.flip and rng.random() < 0.5:
            value = value.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            value = enhance(value).enhance(1 + options.jitter * rng.uniform(-1, 1))
        return value

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size to crop to: the processor's own, so that a picture is resized once and recoloured when small."""
        wanted = self.processor.size
        if wanted.height and wanted.width:
            return wanted.width, wanted.height
        scale = wanted.shortest_edge / min(size) if wanted.shortest_edge else 1
        return round(size[0] * scale), round(size[1] * scale)
