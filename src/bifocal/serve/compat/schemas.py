"""The bodies of requests and answers in the shapes of other services' APIs, whose field names these are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...config import Strict


class ImageUrl(Strict):
    url: str = Field(description="A data: URI with the picture in base64; no address is fetched.")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationIn(BaseModel):
    """A text, several texts, or the parts of one post."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": "a quiet morning"}, {"input": ["a quiet morning", "another"]}]}
    )
    input: (
        str
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Annotated[list[Part], Field(min_length=1, fail_fast=True)]
    )
    model: str | None = Field(None, description="Not read: this service has one.")


class ModerationResult(BaseModel):
    model_config = ConfigDict(extra="allow")
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class ModerationOut(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]


class CommentIn(Strict):
    text: str | None = None
    type: str | None = Field(default=None, description="PLAIN_TEXT, the only one.")


class AttributeIn(Strict):
    scoreType: str | None = Field(default=None, description="PROBABILITY, the only one.")
    scoreThreshold: float | None = Field(default=None, ge=0, le=1, description="Scores under it are not told.")


class CommentRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    comment: CommentIn | None = None
    context: dict[str, Any] | None = Field(default=None, description="Not read.")
    languages: list[str] | None = None
    clientToken: str | None = None
    sessionId: str | None = None
    communityId: str | None = None


class AnalyzeIn(CommentRequest):
    """A comment, and what is asked of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"comment": {"text": "a quiet morning"}, "requestedAttributes": {"TOXICITY": {}}}]
        },
    )
    requestedAttributes: dict[str, AttributeIn | None] | None = None
    doNotStore: bool | None = None
    spanAnnotations: bool | None = None


class AnalyzeOut(BaseModel):
    model_config = ConfigDict(extra="allow")
    attributeScores: dict[str, Any] = {}
    languages: list[str]
    detectedLanguages: list[str]


class ScoreIn(Strict):
    value: float | None = Field(default=None, ge=0, le=1)
    type: str | None = None


class SpanIn(Strict):
    begin: int | None = None
    end: int | None = None
    score: ScoreIn | None = None


class SuggestedIn(Strict):
    summaryScore: ScoreIn | None = None
    spanScores: list[SpanIn] | None = Field(default=None, description="Not read.")


class SuggestIn(CommentRequest):
    """A comment, and what its scores should have been."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "comment": {"text": "a quiet morning"},
                    "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0}}},
                }
            ]
        },
    )
    attributeScores: dict[str, SuggestedIn | None] | None = None


class SuggestOut(BaseModel):
    model_config = ConfigDict(extra="allow")
    requestedLanguages: list[str]
    detectedLanguages: list[str]
