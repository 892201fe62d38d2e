"""Search results in every format: the hits of each query, and the vote over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from cxrsearch.clinical import Field
from cxrsearch.prediction import Prediction
from cxrsearch.report.rows import Format, text_of, write_csv, write_json, write_jsonl, write_table
from cxrsearch.search import Hit, Result
from cxrsearch.vote import Vote

# What a table shows of each hit, where the index has it; every other format gives all fields.
_TABLE_FIELDS = ("patient", "site", "view", "finding", "outcome")


def write(
    results: Sequence[Result], votes: Sequence[Vote], predictions: Sequence[Prediction], fields: Mapping[str, Field],
    format: Format, stream: TextIO,
) -> None:  # fmt: skip
    """``votes``, ``predictions``: one per result, or none at all."""
    match format:
        case Format.TABLE:
            for number, result in enumerate(results):
                _table(result, votes[number] if votes else None, fields, stream)
                if predictions:
                    _predicted(predictions[number], stream)
        case Format.CSV:
            columns = ["query", "rank", "score", *(n for n in fields if n != "image_sha256")]
            write_csv((row for result in results for row in _flat(result)), columns, stream)
        case Format.JSONL:
            write_jsonl((row for result in results for row in _flat(result)), stream)
        case Format.JSON:
            nested = [_nested(result, votes[n] if votes else None) for n, result in enumerate(results)]
            for row, prediction in zip(nested, predictions, strict=False):
                said = prediction.said if prediction.value is None else prediction.value
                row["prediction"] = {"target": prediction.target, "said": said, "card": prediction.card}
            write_json(nested, stream)


def _table(result: Result, vote: Vote | None, fields: Mapping[str, Field], stream: TextIO) -> None:
    shown = [name for name in _TABLE_FIELDS if name in fields]
    if vote is not None and vote.field not in shown:
        shown.append(vote.field)
    notes = []
    if result.query.indexed:
        notes.append("in the index")
    if result.query.left_out:
        notes.append(f"own patient {', '.join(result.query.left_out)} left out")
    title = f"{result.query.path}" + (f"  ({'; '.join(notes)})" if notes else "")
    rows = [{**hit.payload, "score": f"{hit.score:.4f}", "#": hit.rank} for hit in result.hits]
    write_table(rows, ["#", "score", *shown, "path"], title, stream)
    if not result.hits:
        stream.write("no image of the index meets this\n")
    if vote is not None:
        write_table(_vote_rows(vote), ["value", "weight", "images", "patients"], f"vote on {vote.field}", stream)


def _predicted(prediction: Prediction, stream: TextIO) -> None:
    """What a saved model says of the query, beside how often it is so at all and how good the model was."""
    card = prediction.card
    base = card.get("base_rate", {})
    if prediction.value is None:
        rows = [
            {
                "value": text_of(name),
                "probability": f"{share:.0%}",
                "in the cohort": f"{base[name]:.0%}" if name in base else "",
            }
            for name, share in prediction.said.items()
        ]
        write_table(rows, ["value", "probability", "in the cohort"], f"prediction of {prediction.target}", stream)
    else:
        stream.write(f"prediction of {text_of(prediction.target)}: {prediction.value:.3g}\n")
    known = [
        f"{text_of(name)} {figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
        for name, figure in dict(card.get("figures", {})).items()
        if name in ("AUC", "ECE", "r", "MAE")
    ]
    stream.write(f"the model, on {card.get('patients')} patients it did not see: {', '.join(known)}\n")


def _vote_rows(vote: Vote) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {**asdict(share), "value": text_of(share.value), "weight": f"{share.weight:.0%}"} for share in vote.shares
    ]
    if vote.missing:
        rows.append({"value": "(missing, no say)", "images": vote.missing})
    return rows


def _flat(result: Result) -> list[dict[str, Any]]:
    return [{"query": str(result.query.path), **_row(hit)} for hit in result.hits]


def _nested(result: Result, vote: Vote | None) -> dict[str, Any]:
    nested: dict[str, Any] = {
        "query": {
            "path": str(result.query.path),
            "indexed": result.query.indexed,
            "left_out": list(result.query.left_out),
        },
        "hits": [_row(hit) for hit in result.hits],
    }
    if vote is not None:
        nested["vote"] = asdict(vote)
    return nested


def _row(hit: Hit) -> dict[str, Any]:
    payload = {name: value for name, value in hit.payload.items() if name != "image_sha256"}
    return {"rank": hit.rank, "score": round(hit.score, 6), **payload}
