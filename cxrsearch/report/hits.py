"""Answers in every format of a terminal: hits, why, the vote over them, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from cxrsearch.clinical.excerpts import plain
from cxrsearch.clinical.fields import DIGESTS, Field
from cxrsearch.report.columns import choose, headings, path_words
from cxrsearch.report.rows import Format, text_of, write_csv, write_json, write_jsonl, write_table
from cxrsearch.report.votes import VOTE_COLUMNS, vote_rows, vote_words
from cxrsearch.retrieval.answer import Answer
from cxrsearch.retrieval.explanation import Explanation
from cxrsearch.retrieval.prediction import Prediction
from cxrsearch.retrieval.search import Hit
from cxrsearch.statistics import Figure
from cxrsearch.store import graph
from cxrsearch.store.contract import DatasetFacts
from cxrsearch.text import clean
from cxrsearch.voting.calibration import Calibration


class Writer:
    """Prints answers as they come, so that a thousand queries need no more memory than one.

    explained: with the shares of each score, and in JSON its maps.
    shown: the fields of a table, None to choose them by what is known; every other format gives all. datasets: of the
        index, whose folders paths are below.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        calibration: Calibration | None,
        format: Format,
        explained: bool,
        stream: TextIO,
        shown: Sequence[str] | None = None,
        datasets: Mapping[str, DatasetFacts] | None = None,
    ) -> None:
        self._shown, self._datasets = shown, datasets or {}
        self._fields, self._calibration, self._format = fields, calibration, format
        self._explained, self._stream = explained, stream
        why = ["nearer_than", *(["border", "lungs"] if explained else [])]
        facts = [name for name in fields if name not in DIGESTS]
        self._columns = ["query", "rank", "score", *why, *facts, "recall", "warnings"]
        self._written = 0

    def write(self, answer: Answer) -> None:
        match self._format:
            case Format.TABLE:
                self._as_table(answer)
            case Format.CSV:
                write_csv(_flat(answer, self._explained), self._columns, self._stream, header=not self._written)
            case Format.JSONL:
                write_jsonl(_flat(answer, self._explained), self._stream)
            case Format.JSON:
                self._stream.write(",\n" if self._written else "[\n")
                write_json(_nested(answer, self._explained), self._stream)
        self._written += 1

    def close(self) -> None:
        """The end of the output: whole also where there was no answer."""
        if self._format is Format.JSON:
            self._stream.write("]\n" if self._written else "[]\n")
        elif self._format is Format.CSV and not self._written:
            write_csv([], self._columns, self._stream)

    def _as_table(self, answer: Answer) -> None:
        warnings = [f"warning: {warning}" for warning in answer.warnings]
        if answer.standing.is_far:
            _lines([warnings.pop(0)], self._stream)
        _table(answer, self._fields, self._explained, self._stream, self._shown)
        _lines(path_words([hit.payload for hit in answer.result.hits], self._datasets), self._stream)
        if answer.vote is not None and answer.vote.shares:
            write_table(vote_rows(answer.vote), VOTE_COLUMNS, f"vote on {answer.vote.field}", self._stream)
        if answer.vote is not None:
            _lines(vote_words(answer.vote, self._calibration), self._stream)
        if answer.prediction is not None:
            _predicted(answer.prediction, self._stream)
        _lines(warnings, self._stream)


def _table(
    answer: Answer, fields: Mapping[str, Field], explained: bool, stream: TextIO, named: Sequence[str] | None
) -> None:
    result = answer.result
    first = [answer.vote.field] if answer.vote is not None else []
    shown = list(named) if named is not None else choose(fields, [hit.payload for hit in result.hits], first)
    looked_in = sorted({name for found in answer.excerpts for name in found} - set(shown))
    notes = []
    if result.query.image is not None and result.query.image.own.stored:
        notes.append("in the index")
    if result.query.left_out.patients:
        notes.append(f"own patient {', '.join(result.query.left_out.patients)} left out")
    title = result.query.name + (f"  ({'; '.join(notes)})" if notes else "")
    rows = []
    for number, hit in enumerate(result.hits):
        row: dict[str, Any] = {**hit.payload, "score": f"{hit.score:.4f}", "#": hit.rank}
        row |= {name: plain(found) for name, found in answer.excerpts[number].items()}
        if answer.standing.ranks:
            row["nearer than"] = f"{answer.standing.ranks[number]:.0%}"
        if explained:
            row |= _share_columns(answer.explanations[number])
        rows.append(row)
    why = ["nearer than"] * bool(answer.standing.ranks) + ["border", "lungs"] * explained
    columns = list(dict.fromkeys(["#", "score", *why, *shown, *looked_in, "path"]))
    write_table(rows, columns, title, stream, shown if named is None else (), headings(fields))
    if answer.graph is not None:
        _lines([graph.found_words(answer.graph)], stream)
    if not result.hits:
        stream.write("no image of the index meets this\n")
    elif answer.standing.ranks:
        stream.write("nearer than: of this archive's own nearest pairs of two patients, the part that is less alike\n")


def _share_columns(explanation: Explanation | None) -> dict[str, str]:
    """Shares over the query's map and over the hit's."""
    if explanation is None:
        return {"border": "no picture"}
    sides = (explanation.query_shares, explanation.hit_shares)
    return {
        name: " / ".join("-" if side is None else f"{getattr(side, name):.0%}" for side in sides)
        for name in ("border", "lungs")
    }


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
            for name, share in prediction.predicted.items()
        ]
        write_table(rows, ["value", "probability", "in the cohort"], f"prediction of {prediction.target}", stream)
    else:
        stream.write(f"prediction of {text_of(prediction.target)}: {prediction.value:.3g}\n")
    known = [
        f"{text_of(name)} {Figure(figure['value'], figure['low'], figure['high']).written()}"
        for name, figure in dict(card.get("figures", {})).items()
        if name in ("AUC", "ECE", "r", "MAE")
    ]
    stream.write(f"the model, on {card.get('patients')} patients it did not see: {', '.join(known)}\n")


def _lines(lines: Sequence[str], stream: TextIO) -> None:
    for line in lines:
        stream.write(clean(line) + "\n")


def _flat(answer: Answer, explained: bool) -> list[dict[str, Any]]:
    """One row a hit, each with what part of the true neighbours such a search finds."""
    of_all: dict[str, Any] = {"recall": 1.0 if answer.graph is None else answer.graph.recall}
    if answer.warnings:
        of_all["warnings"] = list(answer.warnings)
    return [{"query": answer.result.query.name, **row, **of_all} for row in _rows(answer, explained)]


def _nested(answer: Answer, explained: bool) -> dict[str, Any]:
    query = answer.result.query
    standing = answer.standing
    nested: dict[str, Any] = {
        "query": {"text": query.name}
        if query.image is None
        else {
            "path": query.name,
            "indexed": bool(query.image.own.stored),
            "left_out": list(query.left_out.patients),
        },
        "search": graph.as_json(answer.graph),
        "standing": {"nearest": standing.nearest, "novelty": standing.novelty, "is_far": standing.is_far},
        "hits": [],
        "warnings": list(answer.warnings),
    }
    for number, row in enumerate(_rows(answer, explained)):
        more: dict[str, Any] = {}
        if answer.excerpts[number]:
            more["excerpts"] = {name: plain(found) for name, found in answer.excerpts[number].items()}
        if explained and (why := answer.explanations[number]) is not None:
            more["explanation"] = _explained(why)
        nested["hits"].append({**row, **more})
    if answer.vote is not None:
        nested["vote"] = asdict(answer.vote)
    if (prediction := answer.prediction) is not None:
        nested["prediction"] = {
            "target": prediction.target,
            "predicted": prediction.predicted if prediction.value is None else prediction.value,
            "card": prediction.card,
        }
    return nested


def _explained(why: Explanation) -> dict[str, Any]:
    return {
        "query_map": why.query.round(6).tolist(),
        "hit_map": why.hit.round(6).tolist(),
        "query_shares": None if why.query_shares is None else asdict(why.query_shares),
        "hit_shares": None if why.hit_shares is None else asdict(why.hit_shares),
        "from_original": why.original,
    }


def _rows(answer: Answer, explained: bool) -> list[dict[str, Any]]:
    rows = []
    for number, hit in enumerate(answer.result.hits):
        why = answer.explanations[number] if explained else None
        shares = (
            {}
            if why is None or why.hit_shares is None
            else {"border": round(why.hit_shares.border, 4), "lungs": round(why.hit_shares.lungs, 4)}
        )
        ranks = answer.standing.ranks
        nearer = {"nearer_than": ranks[number]} if ranks else {}
        rows.append({**_row(hit), **nearer, **shares})
    return rows


def _row(hit: Hit) -> dict[str, Any]:
    payload = {name: value for name, value in hit.payload.items() if name not in DIGESTS}
    return {"rank": hit.rank, "score": round(hit.score, 6), **payload}
