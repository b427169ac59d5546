"""The discovery document of Perspective's API, as far as this service has it: Google's clients are built from it."""

from __future__ import annotations

from typing import Any

from .schemas import CommentIn


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": name}


def _map(name: str) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _ref(name)}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_STRING, _BOOLEAN = {"type": "string"}, {"type": "boolean"}
_INTEGER, _NUMBER = {"type": "integer", "format": "int32"}, {"type": "number", "format": "float"}
_ASKING = {
    "comment": _ref("TextEntry"),
    "context": _ref("Context"),
    "languages": _list(_STRING),
    "clientToken": _STRING,
    "communityId": _STRING,
    "sessionId": _STRING,
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "TextEntry": dict.fromkeys(CommentIn.model_fields, _STRING),
    "ArticleAndParentComment": {"article": _ref("TextEntry"), "parentComment": _ref("TextEntry")},
    "Context": {
        "entries": _list(_ref("TextEntry")),
        "articleAndParentComment": _ref("ArticleAndParentComment"),
    },
    "Score": {"value": _NUMBER, "type": _STRING},
    "SpanScore": {"begin": _INTEGER, "end": _INTEGER, "score": _ref("Score")},
    "AttributeScores": {"summaryScore": _ref("Score"), "spanScores": _list(_ref("SpanScore"))},
    "AttributeParameters": {"scoreType": _STRING, "scoreThreshold": _NUMBER},
    "AnalyzeCommentRequest": {
        **_ASKING,
        "requestedAttributes": _map("AttributeParameters"),
        "doNotStore": _BOOLEAN,
        "spanAnnotations": _BOOLEAN,
    },
    "AnalyzeCommentResponse": {
        "attributeScores": _map("AttributeScores"),
        "languages": _list(_STRING),
        "detectedLanguages": _list(_STRING),
        "clientToken": _STRING,
    },
    "SuggestCommentScoreRequest": {**_ASKING, "attributeScores": _map("AttributeScores")},
    "SuggestCommentScoreResponse": {
        "requestedLanguages": _list(_STRING),
        "detectedLanguages": _list(_STRING),
        "clientToken": _STRING,
    },
}
_METHODS = {
    "analyze": ("AnalyzeComment", "Scores a comment."),
    "suggestscore": ("SuggestCommentScore", "Says what the scores of a comment should have been."),
}


def document(root: str) -> dict[str, Any]:
    """The document of a service that is reached at an address, which ends in a slash."""
    methods = {
        name: {
            "id": f"commentanalyzer.comments.{name}",
            "path": f"v1alpha1/comments:{name}",
            "flatPath": f"v1alpha1/comments:{name}",
            "httpMethod": "POST",
            "description": description,
            "parameters": {},
            "parameterOrder": [],
            "request": _ref(f"{kind}Request"),
            "response": _ref(f"{kind}Response"),
        }
        for name, (kind, description) in _METHODS.items()
    }
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "commentanalyzer:v1alpha1",
        "name": "commentanalyzer",
        "canonicalName": "Comment Analyzer",
        "version": "v1alpha1",
        "title": "Perspective Comment Analyzer API, as Bifocal answers it",
        "protocol": "rest",
        "rootUrl": root,
        "baseUrl": root,
        "servicePath": "",
        "batchPath": "batch",
        "parameters": {
            "key": {"type": "string", "location": "query", "description": "A key of `bifocal keys add`."},
            "alt": {"type": "string", "location": "query", "default": "json", "enum": ["json"]},
            "fields": {"type": "string", "location": "query"},
            "prettyPrint": {"type": "boolean", "location": "query", "default": "true"},
            "quotaUser": {"type": "string", "location": "query"},
        },
        "schemas": {
            name: {"id": name, "type": "object", "properties": properties} for name, properties in _SCHEMAS.items()
        },
        "resources": {"comments": {"methods": methods}},
    }
